"""Zarr stores as data from strangers: whatever is wrong with them is an error of ours."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from zarr.errors import BaseZarrError

from tasks.store.faults import StoreError

# Above these an array is nonsense, and its chunks alone could not be counted.
_MOST_ROWS, _MOST_CHUNKS, _LARGEST_ROW = 100_000_000, 20_000_000, 1 << 22

# What Zarr and its codecs raise on damage. Faults of the disk or network have other classes.
_DAMAGE = (
    *(ValueError, TypeError, LookupError, AttributeError, RuntimeError, FileNotFoundError),
    *(NotADirectoryError, IsADirectoryError, BaseZarrError),
)


@contextmanager
def reading_zarr(url: str, kind: type[ValueError], remedy: str) -> Iterator[None]:
    """Turn what damage makes fail into one error that names the store.

    Raises:
        ValueError: Of the given kind.
    """
    try:
        yield
    except (kind, StoreError):
        raise
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise kind(
            f"{url}: got a damaged store ({reason}), expected a whole one; {remedy}"
        ) from error


def sound_array(array: Any, axes: int) -> Any:
    """Return an array as it is.

    Raises:
        ValueError: It is not float32, has another number of axes, or a size that is nonsense.
    """
    name = array.path or "array"
    if array.dtype != "float32" or array.ndim != axes:
        raise ValueError(
            f"{name}: got {array.dtype} with {array.ndim} axes, expected float32 with {axes}"
        )
    blocks = [*array.chunks, *(array.shards or ())]
    row = math.prod(array.shape[1:])
    chunk = max(math.prod(array.chunks), math.prod(array.shards or (0,)))
    too_large = array.shape[0] > _MOST_ROWS or row > _LARGEST_ROW or array.nchunks > _MOST_CHUNKS
    if too_large or min(blocks) < 1 or chunk > 1 << 32:
        raise ValueError(
            f"{name}: got shape {list(array.shape)} in chunks of {list(array.chunks)}, expected "
            "an array that this code would write"
        )
    return array
