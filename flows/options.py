"""Groups of options in `--help`: what everyday needs comes before them."""

from typing import Annotated

from cyclopts import Group, Parameter

DIRECTIONS = Group.create_ordered("Measuring directions")
AGAIN = Group.create_ordered("Doing results again")
MACHINE = Group.create_ordered("Machine and workers")
EVERYWHERE = Group.create_ordered("Of every command")

# Of options that say what computes, and change no result.
MachineInt = Annotated[int, Parameter(group=MACHINE)]
MachineStr = Annotated[str, Parameter(group=MACHINE)]
