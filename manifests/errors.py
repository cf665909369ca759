"""What is wrong with a manifest, said with its place, what was got, what was expected, a remedy."""

import difflib
import re
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

_SHOWN_ERRORS = 20
_SHOWN_CHARACTERS = 60
# Longer words are no misspelt names, and comparing them takes long.
_LONGEST_MISSPELT = 120


class Mistake(NamedTuple):
    """One thing that is wrong with the values of a row.

    Attributes:
        column: Where; empty for the row as a whole.
        got: The value.
        expected: In words.
        remedy: What to do.
    """

    column: str
    got: object
    expected: str
    remedy: str

    def __str__(self) -> str:
        place = f"column {self.column}: " if self.column else ""
        return f"{place}got {shown(self.got)}, expected {self.expected}; {self.remedy}"


class RowError(NamedTuple):
    """A mistake and the row that it is in.

    Attributes:
        row: Where a person finds it. Parquet: data rows count from 1. CSV: as a spreadsheet counts,
            the header is row 1, blank rows count, a quoted line break and `sep=;` do not.
        column: See `Mistake`.
        got: See `Mistake`.
        expected: See `Mistake`.
        remedy: See `Mistake`.
    """

    row: int
    column: str
    got: object
    expected: str
    remedy: str

    def __str__(self) -> str:
        separator = ", " if self.column else ": "
        return f"row {self.row:,}{separator}{Mistake(*self[1:])}"


class EditError(ValueError):
    """An edit is outside its limits or contradicts itself.

    Attributes:
        mistakes: All that is wrong with it.
    """

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__("; ".join(map(str, mistakes)))
        self.mistakes = mistakes


class ManifestError(ValueError):
    """A manifest cannot be used.

    Attributes:
        errors: The first mistakes in rows; none where the file as a whole is wrong.
        count: Mistakes in rows altogether.
    """

    def __init__(self, message: str, errors: tuple[RowError, ...] = (), count: int = 0) -> None:
        super().__init__(message)
        self.errors, self.count = errors, count


def require_no_errors(errors: Iterable[RowError], table: str = "manifest") -> None:
    """Exhaust the errors of a table.

    Args:
        errors: Of its rows.
        table: What it is called.

    Raises:
        ManifestError: There are some; it holds the first 20 and counts all.
    """
    remaining = iter(errors)
    first = tuple(islice(remaining, _SHOWN_ERRORS))
    if not first:
        return
    count = len(first) + sum(1 for _ in remaining)
    noun = "mistake" if count == 1 else "mistakes"
    which = f", the first {len(first)} are" if count > len(first) else ""
    lines = "".join(f"\n  {error}" for error in first)
    raise ManifestError(
        f"{table}: got {count:,} {noun}, expected none; rows of CSV are counted as a spreadsheet "
        f"does, of Parquet from 1{which}:{lines}",
        first,
        count,
    )


def did_you_mean(word: object, words: Iterable[str], otherwise: str) -> str:
    """Suggest the word that is most like a misspelt one, or else say something else."""
    if not isinstance(word, str) or len(word) > _LONGEST_MISSPELT:
        return otherwise
    close = difflib.get_close_matches(word, words, n=1)
    return f"did you mean {close[0]!r}?" if close else otherwise


def shown(value: object) -> str:
    """A value in one short line, with what cannot be seen escaped."""
    if value is None:
        return "nothing"
    if isinstance(value, str | bytes) and len(value) > _SHOWN_CHARACTERS:
        return f"{value[:_SHOWN_CHARACTERS]!r}... ({len(value):,} characters)"
    try:
        # A byte that is not UTF-8 as the byte it is.
        text = re.sub(r"\\udc([89a-f][0-9a-f])", r"\\x\1", repr(value))
    except (ValueError, OverflowError):
        # Scalars of Arrow may hold what Python cannot: a year above 9999, text that is not UTF-8.
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
