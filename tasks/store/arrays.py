"""Zarr groups that several writers may make and fill at once, and stop making anywhere."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import zarr
from zarr.core.array import AsyncArray
from zarr.core.buffer import Buffer
from zarr.core.common import AccessModeLiteral as AccessMode
from zarr.storage import MemoryStore

from tasks.store.folders import Folder

_ROOT = "zarr.json"


def create_group(folder: Folder, name: str, attributes: Mapping[str, Any]) -> bool:
    """Write the attributes of a group, which of several writers one does.

    Returns:
        Whether it was this one.
    """
    files = dict[str, Buffer]()
    zarr.create_group(MemoryStore(files), attributes=dict(attributes))
    try:
        folder.create(f"{name}/{_ROOT}", files[_ROOT].to_bytes())
    except FileExistsError:
        return False
    return True


def create_arrays(folder: Folder, name: str, build: Callable[[zarr.Group], None]) -> None:
    """Write the arrays of a group that are not there yet; those that are stay as they are.

    Args:
        folder: Where the group is.
        name: Of the group.
        build: Makes the arrays, and may fill them.
    """
    files = dict[str, Buffer]()
    build(zarr.create_group(MemoryStore(files)))
    # Values before the file that says that there is an array.
    for key in sorted(files, key=lambda key: (key.endswith(_ROOT), key)):
        if key != _ROOT:
            with suppress(FileExistsError):
                folder.create(f"{name}/{key}", files[key].to_bytes())


def open_array(folder: Folder, name: str, mode: AccessMode, rows: int | None = None) -> Any:
    """Open an array.

    Args:
        folder: Of the group.
        name: Of the array.
        mode: `r` or `r+`.
        rows: Its length, where the file that says it may be behind because of other writers.
    """
    array: Any = zarr.open_array(folder.zarr_store(name), mode=mode)
    if rows is None or array.shape[0] >= rows:
        return array
    inner = array.async_array
    metadata = inner.metadata.update_shape((rows, *array.shape[1:]))
    return zarr.Array(AsyncArray(metadata, inner.store_path, inner.config))
