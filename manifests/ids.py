"""Which row an id was first seen at, for tens of millions of ids in bounded memory."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.int64]
Rows = npt.NDArray[np.uint32]

_SMALLEST_CAPACITY = 1 << 16
_LARGEST_LOAD = 0.7
# Bounds the temporary arrays of a growth.
_MOVED_AT_ONCE = 1 << 16


class IdIndex:
    """Remember the first row of every id: a hash table that takes 12 to 40 bytes an id.

    It keeps 64-bit hashes: of ten million different ids two pass for one with a probability of
    three in a million.
    """

    def __init__(self) -> None:
        self._count = 0
        self._allocate(_SMALLEST_CAPACITY)

    def first_rows(self, ids: Iterable[str], rows: Iterable[int]) -> Rows:
        """Add ids and say where each was first seen.

        Args:
            ids: N ids.
            rows: N row numbers from 1, ascending, above those of all earlier calls.

        Returns:
            [N] row numbers; an id that is new has its own.
        """
        hashes = np.fromiter(map(hash, ids), np.int64)
        numbers = np.fromiter(rows, np.uint32)
        while self._count + len(hashes) > _LARGEST_LOAD * len(self._rows):
            self._grow()
        first = self._insert(hashes, numbers)
        self._count += int((first == numbers).sum())
        return first

    def _allocate(self, capacity: int) -> None:
        self._hashes: Hashes = np.zeros(capacity, np.int64)
        # 0 marks a free slot.
        self._rows: Rows = np.zeros(capacity, np.uint32)

    def _insert(self, hashes: Hashes, rows: Rows) -> Rows:
        mask = len(self._rows) - 1
        first = np.zeros_like(rows)
        slots = hashes & mask
        waiting = np.arange(len(hashes))
        while len(waiting):
            at = slots[waiting]
            free = self._rows[at] == 0
            # Of several that want one slot the last to be written has it: reversed, the first row.
            claiming = waiting[free][::-1]
            self._rows[slots[claiming]] = rows[claiming]
            self._hashes[slots[claiming]] = hashes[claiming]
            found = self._hashes[at] == hashes[waiting]
            first[waiting[found]] = self._rows[at[found]]
            waiting = waiting[~found]
            slots[waiting] = (slots[waiting] + 1) & mask
        return first

    def _grow(self) -> None:
        hashes, rows = self._hashes, self._rows
        self._allocate(2 * len(rows))
        for start in range(0, len(rows), _MOVED_AT_ONCE):
            part = slice(start, start + _MOVED_AT_ONCE)
            used = rows[part] != 0
            self._insert(hashes[part][used], rows[part][used])
