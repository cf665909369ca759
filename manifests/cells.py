"""Cells of a table -> instructions; what is left out has its default."""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

from manifests.instructions import DEFAULT_ALPHA, DEFAULT_METHOD, Instruction

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_WHOLE = re.compile(r"\s*[+-]?\d{1,18}(\.0*)?\s*", re.ASCII)


def read_instruction(cells: Mapping[str, object]) -> Instruction:
    """Read what is asked of an image.

    Args:
        cells: By column, as text or in their own types; None and what is missing is the default.

    Raises:
        EditError: A cell is of another type, outside its range, or contradicts another.
    """
    values: dict[str, Any] = {
        name: _READERS.get(name, _as_it_is)(cell)
        for name, cell in cells.items()
        if cell is not None
    }
    method = values.get("method", DEFAULT_METHOD)
    # An unknown method is reported as such.
    values.setdefault("alpha", DEFAULT_ALPHA.get(method, 1.0))
    values.setdefault("target_prompt", None)
    return Instruction(**values)


def as_name(cell: object) -> object:
    """A name; also one that another program took for a whole number."""
    return str(cell) if isinstance(cell, int) and not isinstance(cell, bool) else cell


def _number(cell: object) -> object:
    if isinstance(cell, str):
        return float(cell) if _NUMBER.fullmatch(cell) else cell
    if isinstance(cell, Real | Decimal) and not isinstance(cell, bool):
        return float(cell)
    return cell


def _whole(cell: object) -> object:
    """A whole number; also one that pandas wrote as 20.0, because others are missing."""
    if isinstance(cell, str) and _WHOLE.fullmatch(cell):
        return int(float(cell))
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell


def _as_it_is(cell: object) -> object:
    return cell


_READERS: Mapping[str, Callable[[object], object]] = {
    "alpha": _number,
    "beta": _number,
    "num_channels": _whole,
}
