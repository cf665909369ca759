"""The table of faces: what became of every photograph."""

from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from manifests.schemas import FACES
from tasks import places
from tasks.store.folders import Folder
from tasks.store.ledger import LOOKED_AT, Ledger


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


def copied_photos(workspace: str, shards: Collection[int]) -> dict[str, str]:
    """Return photographs of shards that another one equals byte by byte, and that one.

    Of many shards the first are looked at, and of others the first.
    """
    ledger, copies, known = faces_ledger(workspace), dict[str, str](), dict[str, str]()
    own = sorted(shards)[:LOOKED_AT]
    others = [shard for shard in ledger.committed() if shard not in {*shards}][:LOOKED_AT]
    for part in (own, others):
        for table in ledger.results(part):
            columns = table.select(["source_sha256", "source_uri"])
            if part is others:
                columns = columns.filter(pc.is_in(columns[0], pa.array(known, pa.string())))
            for digest, uri in zip(
                *(column.to_pylist() for column in columns.columns), strict=True
            ):
                if digest and known.setdefault(digest, uri) != uri:
                    copies[known[digest]] = uri
    return copies


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
