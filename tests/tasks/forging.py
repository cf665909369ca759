"""Damage that digests do not show: what was committed is changed, and its commit with it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import zarr

from tasks.latents import STORE, LatentStore
from tasks.store.folders import Folder, sha256
from tasks.store.ledger import Ledger, read_table, table_bytes


def forge(ledger: Ledger, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the rows of shard 0, and its commit so that the digests agree."""
    folder, part = ledger.folder, ledger.read_commit(0).parts[0]
    content = table_bytes(change(read_table((folder / "results").read(part.name))))
    (folder / "results").write(part.name, content)
    (name,) = [n for n in (folder / "_commits").names() if "00000" in n]
    commit = json.loads((folder / "_commits").read(name))
    commit["parts"][0] |= {"sha256": sha256(content), "size": len(content)}
    commit["parts"][0]["rows"] = len(read_table(content))
    (folder / "_commits").write(name, json.dumps(commit).encode())


def invert_otherwise(root: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the W+ latents of a workspace's store, as other networks or code would give them."""
    (place,) = Path(root).glob("latents/*")
    store = LatentStore(Folder(str(place)))
    count = len(store.ledger.rows(0))
    array = zarr.open_group(f"{place}/{STORE}", mode="r+")["w_plus"]
    array[:count] = change(array[:count])
    digests = store.read_stored(range(count)).digests()

    def stamped(rows: pa.Table) -> pa.Table:
        known = [row | {"stored_sha256": digests[row["row"]]} for row in rows.to_pylist()]
        return pa.Table.from_pylist(known, rows.schema)

    forge(store.ledger, stamped)
