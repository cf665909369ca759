"""The table of faces: what became of every photograph."""

from collections.abc import Collection, Iterator

import pyarrow as pa

from manifests.schemas import FACES
from tasks import places
from tasks.store.folders import Folder
from tasks.store.ledger import Ledger


def faces_ledger(workspace: str) -> Ledger:
    """Return the ledger of a workspace's faces."""
    return Ledger(Folder(workspace) / places.FACES, FACES)


def faces_table(workspace: str) -> pa.Table:
    """Return all faces of a workspace, of the schema FACES."""
    return pa.concat_tables([FACES.empty_table(), *faces_ledger(workspace).results()])


def has_faces(workspace: str) -> bool:
    """Return whether a workspace has an aligned face."""
    return any("ok" in faces["status"].to_pylist() for faces in faces_ledger(workspace).results())


def crowded_photos(workspace: str, shards: Collection[int]) -> dict[str, int]:
    """Return photographs of shards that show several faces, and how many were found."""
    return {
        row["source_uri"]: row["num_faces"]
        for table in faces_ledger(workspace).results(shards)
        for row in table.select(["source_uri", "num_faces"]).to_pylist()
        if (row["num_faces"] or 0) > 1
    }


def unusable_photos(workspace: str, shards: Collection[int]) -> Iterator[tuple[str, str]]:
    """Yield photographs of shards that gave no face, and why.

    Args:
        workspace: Its URL.
        shards: Where to look; those without a commit are passed over.
    """
    for table in faces_ledger(workspace).results(shards):
        for row in table.select(["source_uri", "status", "error"]).to_pylist():
            if row["status"] != "ok":
                yield row["source_uri"], f"{row['status']}: {row['error']}"
