"""The table of faces: what became of every photograph."""

from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from manifests.schemas import FACES
from tasks import places
from tasks.store.folders import Folder, sha256
from tasks.store.ledger import LOOKED_AT, Ledger, Row


def faces_ledger(workspace: str) -> Ledger:
    """Return the ledger of a workspace's faces."""
    return Ledger(Folder(workspace) / places.FACES, FACES)


def faces_table(workspace: str) -> pa.Table:
    """Return all faces of a workspace, of the schema FACES."""
    return pa.concat_tables([FACES.empty_table(), *faces_ledger(workspace).results()])


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


_OF_A_PHOTO = ["image_id", "source_uri", "source_sha256", "crop_uri"]


class Outdated(NamedTuple):
    """Faces, by their ids, that show their photographs as they were.

    Attributes:
        gone: Of photographs that are no longer there.
        replaced: Of photographs in whose place is another file now.
    """

    gone: list[str]
    replaced: list[str]


def outdated_faces(workspace: str, source: str) -> Outdated:
    """Return the faces whose photographs were deleted or replaced since, in a folder of here.

    Only a file that is newer than its crop is read. Of many shards the first are looked at.

    Args:
        workspace: Its URL.
        source: An input; no face is told of one that is no folder of this machine.
    """
    root, folder, found = Folder(workspace), Folder(source), Outdated([], [])
    if not (root.is_local and folder.is_local and Path(folder.url).is_dir()):
        return found
    ledger = faces_ledger(workspace)
    for table in ledger.results(ledger.committed()[:LOOKED_AT]):
        known = table.filter(pc.equal(table["status"], "ok"))
        for row in known.select(_OF_A_PHOTO).to_pylist():
            photo = Path(row["source_uri"])
            if photo.is_relative_to(folder.url):
                with suppress(OSError):
                    if not photo.exists():
                        found.gone.append(row["image_id"])
                    elif _is_replaced(photo, row, root):
                        found.replaced.append(row["image_id"])
    return found


def _is_replaced(photo: Path, row: Row, workspace: Folder) -> bool:
    crop = Path(places.face_file(row["crop_uri"], workspace))
    is_newer = photo.stat().st_mtime > crop.stat().st_mtime
    return is_newer and sha256(photo.read_bytes()) != row["source_sha256"]


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
