"""Whether two workspaces hold the same: images byte for byte, tables and arrays value for value."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import zarr

from manifests.schemas import FACES, LATENTS, RESULTS
from tasks.directions import BLOCKS
from tasks.store.folders import Folder
from tasks.store.ledger import Ledger, read_table

_SCHEMAS = {"faces": FACES, "latents": LATENTS, "directions": BLOCKS, "runs": RESULTS}
_WHOLE = (".png", ".webp", ".safetensors", ".tar")
# What differs between equal runs: times, and places.
_VOLATILE = ("seconds", "_uri")
# Looked at through the ledger and through Zarr.
_INNER = ("results", "_plans", "_commits")


def differences(one: str, other: str) -> list[str]:
    """Return what differs between two workspaces, wall times and URIs aside; the first of each."""
    mine, theirs = Folder(one), Folder(other)
    return [
        *_differing(dict(_files(mine)), dict(_files(theirs))),
        *_differing(dict(_tables(mine)), dict(_tables(theirs))),
        *_differing(dict(_arrays(mine)), dict(_arrays(theirs))),
    ]


def count_compared(url: str) -> dict[str, int]:
    """Return how many things of each kind a workspace has for `differences` to compare."""
    folder = Folder(url)
    kinds = {"files": _files, "tables": _tables, "arrays": _arrays}
    return {kind: sum(1 for _ in find(folder)) for kind, find in kinds.items()}


def _differing(mine: dict[str, object], theirs: dict[str, object]) -> Iterator[str]:
    for name in sorted({*mine, *theirs}):
        if name not in mine or name not in theirs:
            yield f"{name}: only in one of them"
        elif mine[name] != theirs[name]:
            yield f"{name}: differs"


def _files(folder: Folder) -> Iterator[tuple[str, object]]:
    for name in folder.files():
        if name.endswith(_WHOLE):
            yield name, folder.read(name)


def _tables(folder: Folder) -> Iterator[tuple[str, object]]:
    for kind, schema in _SCHEMAS.items():
        ledgers = [kind] if kind == "faces" else [f"{kind}/{n}" for n in (folder / kind).names()]
        for name in ledgers:
            rows = Ledger(folder / name, schema).results()
            yield f"results of {name}", _stable(pa.concat_tables([schema.empty_table(), *rows]))
    for name in folder.files():
        if name.endswith(".parquet") and not set(name.split("/")) & {*_INNER}:
            yield name, _stable(read_table(folder.read(name)))


def _arrays(folder: Folder) -> Iterator[tuple[str, object]]:
    for name in folder.files():
        parent, _, last = name.rpartition("/")
        if last == "zarr.json" and parent.endswith(".zarr"):
            group = zarr.open_group(folder.zarr_store(parent), mode="r")
            for array, values in group.arrays():
                content = np.asarray(values[:])
                yield (
                    f"{parent}/{array}",
                    content.tolist()
                    if content.dtype == object
                    else (
                        content.shape,
                        content.tobytes(),
                    ),
                )


def _stable(table: pa.Table) -> str:
    """The rows as text, in which NaN equals NaN, without what may differ."""
    kept = [name for name in table.column_names if not name.endswith(_VOLATILE)]
    return repr(table.select(kept).to_pylist())
