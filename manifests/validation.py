"""Every mistake in the rows of a manifest, with its row number and remedy."""

import re
from collections.abc import Callable, Container, Iterable, Iterator
from functools import lru_cache, partial
from itertools import repeat
from typing import NamedTuple

from manifests.cells import as_name, read_instruction
from manifests.edits import Edit, name_mistake, pair_id
from manifests.errors import EditError, Mistake, RowError, did_you_mean
from manifests.ids import IdIndex
from manifests.instructions import INSTRUCTION_COLUMNS, Instruction, Limits, no_limits
from manifests.tables import RawBatch

# Rows with equal cells, which manifests have in plenty, are read once.
_REMEMBERED = 4_096

# Looking for a similar id among millions takes long, so only the first unknown ones get it.
_SUGGESTIONS = 20
_COMPARED = 2_000

_ABSENT = (
    "align and invert it first, or remove the row; `styleclip faces` says which photographs have "
    "no face that can be used"
)
# A lone 0 stays.
_ZEROS = re.compile("^0+(?=.)")
_NAMES = ("image_id", "pair_id")
_ReadCells = Callable[..., Instruction | tuple[Mistake, ...]]


class CheckedBatch(NamedTuple):
    """Rows of a manifest after their check.

    Attributes:
        edits: Rows without a mistake.
        pair_ids: Theirs.
        errors: All mistakes, by ascending row.
        default_alphas: How many of all rows have no alpha, and so the usual one of their method.
    """

    edits: list[Edit]
    pair_ids: list[str]
    errors: list[RowError]
    default_alphas: int


def check_edits(
    batches: Iterable[RawBatch],
    known_image_ids: Container[str] | None = None,
    limits: Limits = no_limits,
) -> Iterator[CheckedBatch]:
    """Tell rows that can be used from mistakes; memory grows by 40 bytes a row, for the ids.

    Args:
        batches: See `manifests.reading.stream_edits`.
        known_image_ids: Images that can be edited; any where None.
        limits: Of what can be asked for.
    """
    checker = _Checker(known_image_ids, limits)
    for batch in batches:
        yield checker.check(batch)


class _Row(NamedTuple):
    """A row with what could be made of it."""

    number: int
    edit: Edit | None
    pair_id: str | None
    is_computed: bool


class _Checker:
    """Check rows one after the other; knows the ids of all that went before."""

    def __init__(self, known_image_ids: Container[str] | None, limits: Limits) -> None:
        self._known = known_image_ids
        self._suggestions = _SUGGESTIONS
        self._index = IdIndex()
        self._read: _ReadCells = lru_cache(_REMEMBERED, typed=True)(partial(_read_cells, limits))

    def check(self, batch: RawBatch) -> CheckedBatch:
        rows, errors = list[_Row](), [*batch.errors]
        cells = zip(*(_column(batch, name) for name in INSTRUCTION_COLUMNS), strict=True)
        ids = zip(*(map(as_name, _column(batch, name)) for name in _NAMES), strict=True)
        for number, (image_id, given_id), values in zip(batch.rows, ids, cells, strict=True):
            row, mistakes = self._check_row(number, image_id, given_id, self._read(*values))
            rows.append(row)
            errors += [RowError(number, *mistake) for mistake in mistakes]
        repeated = self._repeated(rows)
        errors += repeated.values()
        usable = [
            (row.edit, row.pair_id)
            for row in rows
            if row.edit and row.pair_id and row.number not in repeated
        ]
        return CheckedBatch(
            [edit for edit, _ in usable],
            [name for _, name in usable],
            sorted(errors, key=lambda error: error.row),
            sum(cell is None for _, cell in zip(batch.rows, _column(batch, "alpha"), strict=True)),
        )

    def _check_row(
        self,
        number: int,
        image_id: object,
        given_id: object,
        read: Instruction | tuple[Mistake, ...],
    ) -> tuple[_Row, list[Mistake]]:
        instruction, found = (read, ()) if isinstance(read, Instruction) else (None, read)
        mistakes = [*found]
        if image_mistake := self._image_mistake(image_id):
            mistakes.insert(0, image_mistake)
        id_mistake = name_mistake("pair_id", given_id) if given_id is not None else None
        if id_mistake:
            mistakes.insert(0, id_mistake)
        edit = Edit(str(image_id), instruction) if instruction and not image_mistake else None
        name = None if id_mistake else given_id
        if given_id is None and edit:
            name = pair_id(edit)
        return _Row(number, edit, str(name) if name else None, given_id is None), mistakes

    def _image_mistake(self, image_id: object) -> Mistake | None:
        mistake = name_mistake("image_id", image_id)
        if self._known is None or not isinstance(image_id, str):
            return mistake
        if mistake is None and image_id not in self._known:
            mistake = Mistake("image_id", image_id, "an aligned or imported face", _ABSENT)
        return mistake and mistake._replace(remedy=self._similar(image_id, mistake.remedy))

    def _similar(self, image_id: str, otherwise: str) -> str:
        if not isinstance(self._known, Iterable) or not self._suggestions:
            return otherwise
        self._suggestions -= 1
        wanted = _plain(image_id)
        alike = [known for known in self._known if _plain(known)[:2] == wanted[:2]]
        same = [known for known in alike if _plain(known) == wanted]
        if same:
            return f"did you mean {same[0]!r}?"
        return did_you_mean(image_id, alike[:_COMPARED], otherwise)

    def _repeated(self, rows: Iterable[_Row]) -> dict[int, RowError]:
        """The rows whose id an earlier row has."""
        named = [row for row in rows if row.pair_id]
        first = self._index.first_rows(
            (row.pair_id for row in named if row.pair_id), (row.number for row in named)
        )
        return {
            row.number: _repetition(row, at)
            for row, at in zip(named, first.tolist(), strict=True)
            if row.number != at
        }


def _repetition(row: _Row, first: int) -> RowError:
    if row.is_computed and row.edit:
        prompt, expected = (
            row.edit.instruction.target_prompt,
            f"another edit than that of row {first:,}",
        )
        return RowError(row.number, "target_prompt", prompt, expected, "remove one of the rows")
    expected = f"an id that no other row has (row {first:,} has it)"
    remedy = "give each row its own, or leave the column out"
    return RowError(row.number, "pair_id", row.pair_id, expected, remedy)


def _column(batch: RawBatch, name: str) -> Iterable[object]:
    return batch.columns.get(name) or repeat(None, len(batch.rows))


def _plain(image_id: str) -> str:
    """An id without what programs and people change: blanks around it, case, zeros before it."""
    return _ZEROS.sub("", image_id.strip().lower())


def _read_cells(limits: Limits, *cells: object) -> Instruction | tuple[Mistake, ...]:
    try:
        instruction = read_instruction(dict(zip(INSTRUCTION_COLUMNS, cells, strict=True)))
    except EditError as error:
        return error.mistakes
    return tuple(limits(instruction)) or instruction
