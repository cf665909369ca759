"""Groups of options in `--help`; options for every day are shown before them."""

from typing import Annotated

from cyclopts import Group, Parameter
from cyclopts.validators import Number
from pydantic import Field

DIRECTIONS = Group.create_ordered("Measuring directions")
AGAIN = Group.create_ordered("Doing results again")
MACHINE = Group.create_ordered("Machine and workers")
EVERYWHERE = Group.create_ordered("Of every command")

# The command line refuses a smaller number as cyclopts does, a flow that is called or deployed as
# pydantic does.
PositiveInt = Annotated[int, Parameter(validator=Number(gte=1)), Field(ge=1)]
NaturalInt = Annotated[int, Parameter(validator=Number(gte=0)), Field(ge=0)]
# Of options that say what computes, and change no result.
MachineInt = Annotated[PositiveInt, Parameter(group=MACHINE)]
MachineStr = Annotated[str, Parameter(group=MACHINE)]
RedoDamaged = Annotated[bool, Parameter(group=AGAIN)]
