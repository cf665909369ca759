"""The table of faces: what became of every photograph."""

import math
import random
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from manifests.schemas import FACES
from tasks import places
from tasks.store.folders import Folder, is_file, read_url, sha256
from tasks.store.ledger import LOOKED_AT, Ledger, Row


def faces_ledger(workspace: str) -> Ledger:
    """Return the ledger of a workspace's faces."""
    return Ledger(Folder(workspace) / places.FACES, FACES)


def faces_table(workspace: str) -> pa.Table:
    """Return all faces of a workspace, of the schema FACES."""
    return pa.concat_tables([FACES.empty_table(), *faces_ledger(workspace).results()])


def crop_digests(workspace: str, image_ids: Collection[str]) -> dict[str, str]:
    """Return the sha256 that the crops of some faces are committed with, by image id."""
    crops = faces_ledger(workspace).ok_rows("image_id", "crop_sha256")
    chosen = crops.filter(pc.is_in(crops["image_id"], pa.array([*image_ids], pa.string())))
    return {row["image_id"]: row["crop_sha256"] for row in chosen.drop_null().to_pylist()}


def crowded_photos(workspace: str, shards: Collection[int]) -> dict[str, int]:
    """Return photographs of shards that show several faces, and how many were found."""
    return {
        row["source_uri"]: row["num_faces"]
        for table in faces_ledger(workspace).results(shards)
        for row in table.select(["source_uri", "num_faces"]).to_pylist()
        if (row["num_faces"] or 0) > 1
    }


def copied_photos(workspace: str, shards: Collection[int]) -> dict[str, str]:
    """Return photographs of shards that equal another one byte by byte, and that one.

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
                if digest and (first := known.setdefault(digest, uri)) != uri:
                    copy, other = (uri, first) if part is own else (first, uri)
                    copies[copy] = other
    return copies


_OF_A_PHOTO = ["image_id", "source_uri", "source_sha256"]
# Shards that are read at a time.
_READERS = 8
# What a commit says of when its photographs began to be read.
BEGAN = "began"


class Outdated(NamedTuple):
    """Faces, by their ids, that show their photographs as they were.

    Attributes:
        gone: Of photographs that are no longer there.
        replaced: Of photographs in whose place is another file now.
    """

    gone: list[str]
    replaced: list[str]


def outdated_faces(workspace: str, source: str) -> Outdated:
    """Return the faces whose photographs were deleted or replaced since, in a folder or prefix.

    Only a photograph that came there after its shard was begun is read. Of many shards some are
    looked at, and others the next time.

    Args:
        workspace: Its URL.
        source: An input; no face is told of one that is a glob, a listing or a single file.
    """
    found = Outdated([], [])
    if is_file(source):
        return found
    ledger, folder = faces_ledger(workspace), Folder(source)
    inside, there, shards = f"{folder.url}/", folder.modified(), ledger.committed()
    looked_at = random.sample(shards, min(len(shards), LOOKED_AT))
    with ThreadPoolExecutor(_READERS) as pool:
        for began, rows in pool.map(partial(_usable_since, ledger), looked_at):
            for row in (row for row in rows if row["source_uri"].startswith(inside)):
                put_there = there.get(row["source_uri"].removeprefix(inside))
                if put_there is None:
                    found.gone.append(row["image_id"])
                elif put_there >= began and _is_another(row):
                    found.replaced.append(row["image_id"])
    return Outdated(sorted(found.gone), sorted(found.replaced))


def _usable_since(ledger: Ledger, shard: int) -> tuple[float, list[Row]]:
    """When the photographs of a shard were first read, and the faces that they gave."""
    first = ledger.first_commit(shard)
    told = first and first.facts.get(BEGAN)
    # Stores leave out what is less than a second; what is not known is later than all.
    began = datetime.fromisoformat(told).timestamp() - 1 if isinstance(told, str) else math.inf
    rows = ledger.rows(shard)
    return began, rows.filter(pc.equal(rows["status"], "ok")).select(_OF_A_PHOTO).to_pylist()


def _is_another(row: Row) -> bool:
    try:
        return bool(sha256(read_url(row["source_uri"])) != row["source_sha256"])
    except OSError:
        # It went while it was looked at, or cannot be read; the next alignment tells.
        return False


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
