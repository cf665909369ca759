"""Photographs -> aligned crops."""

import time
from collections.abc import Collection, Iterator, Mapping
from itertools import islice

from flows.engines import read_engine
from flows.guards import guarded_flow
from flows.options import MachineInt, MachineStr, PositiveInt, RedoDamaged
from flows.progress import NAMED, say
from flows.shards import run_shards
from flows.share import read_share
from flows.store_check import check_store
from flows.summary import PhotosSummary, Summary
from manifests.schemas import FACE_FAILURES
from tasks.photos.alignment import (
    AlignmentConfig,
    FacesPolicy,
    align_photos_shard,
    bind_alignment,
    faces_not_mended,
    plan_photos,
    require_same_alignment,
    shards_to_align,
)
from tasks.photos.crops import NOT_MENDED
from tasks.photos.faces import (
    Outdated,
    copied_photos,
    crowded_photos,
    faces_ledger,
    outdated_faces,
    unusable_photos,
)
from tasks.photos.listing import require_photos
from tasks.places import CROPS, WorkspaceError
from tasks.selection import statuses_to_retry
from tasks.store.folders import Folder
from tasks.store.ledger import LOOKED_AT

_SINCE = "from before (`--retry-failed` looks again): "
# Photographs of a shard; each takes a second or so.
ALIGN_SHARD = 64


@guarded_flow("align-photos")
def align_photos(
    photos: str,
    workspace: str,
    *,
    faces: FacesPolicy = "largest",
    crop_size: PositiveInt = 256,
    minimum_face: float = 32.0,
    shard_size: MachineInt = ALIGN_SHARD,
    workers: MachineInt = 2,
    engine: MachineStr = "threads",
    worker: MachineStr = "",
    retry_failed: str = "",
    redo_damaged: RedoDamaged = False,
) -> Summary:
    """Find faces with dlib and cut them out as the FFHQ data set does.

    Photographs that the workspace already has are left alone; which of a folder are gone or were
    replaced since is said. A photograph that cannot be used becomes a row with a status; where it
    was mended or replaced, --retry-failed looks again.

    Args:
        photos: A folder, a glob, an object-store prefix, or a CSV or Parquet listing.
        workspace: Folder or URL that holds all data.
        faces: If a photograph shows several people: take the largest face, all, or none of them
            (reject_several).
        crop_size: Side of the crops in pixels. The encoders see 256; larger ones are for people.
        minimum_face: Smallest face crop to accept, in pixels of the photograph. The detector finds
            none below about 76, of 12 megapixels about 160, so that the default takes all.
        shard_size: Photographs of a shard.
        workers: Shards at a time.
        engine: threads, processes, dask, ray, or a cluster as dask:tcp://HOST:8786.
        worker: Without a server, one of several: 0/8 does shards 0, 8, 16 and so on of what
            `prepare` has planned before.
        retry_failed: Look again at photographs without a face whose status is one of these,
            separated by commas (unreadable, no_face, several_faces, too_small); at all of them
            where no status is named.
        redo_damaged: Also cut crops again that are lost or not as they were committed, which reads
            all of them.
    """
    share, by, began = read_share(worker), read_engine(engine), time.monotonic()
    retry = statuses_to_retry(retry_failed, FACE_FAILURES)
    config = AlignmentConfig(crop_size, faces, float(minimum_face))
    if share.prepares:
        require_photos(photos)
        require_same_alignment(workspace, config)
    check_store(workspace)
    if share.prepares:
        shards = plan_photos(workspace, photos, shard_size, retry)
        # Also where they were lost and no photograph is new.
        bind_alignment(faces_ledger(workspace).folder, config)
    else:
        ledger = faces_ledger(workspace)
        share.require(bool(ledger.plans()), ledger.folder.url)
        shards = shards_to_align(ledger, retry, share.of)
    shards = faces_ledger(workspace).plans() if redo_damaged else shards
    arguments = {
        "workspace": workspace,
        "crop_size": crop_size,
        "faces": faces,
        "minimum_face": minimum_face,
        "retry": retry,
        "redo_damaged": redo_damaged,
    }
    counts = run_shards(
        "align",
        align_photos_shard,
        shards,
        workers,
        arguments,
        share=share,
        tags=(),
        engine=by,
    )
    own = share.of(shards)
    if counts and faces == "largest":
        _tell_crowds(crowded_photos(workspace, own))
    if counts and share.works:
        _tell_copies(copied_photos(workspace, own))
    if counts.get(NOT_MENDED):
        _tell_not_mended(faces_not_mended(workspace, own), workspace)
    if share.works and {*counts} - {"ok", NOT_MENDED}:
        _tell_unusable(workspace, own)
    elif not counts and share.prepares:
        known = faces_ledger(workspace).committed()
        _tell_unusable(workspace, known[:LOOKED_AT], _SINCE)
    if share.prepares:
        _tell_outdated(outdated_faces(workspace, photos), workspace)
    # Of several workers, others may have found some.
    alone = share.prepares and share.works
    if alone and counts and not counts.get("ok") and not faces_ledger(workspace).has_ok():
        raise WorkspaceError(
            f"photos: got no usable face in any photograph of {photos}, expected some; "
            f"`styleclip faces {workspace}` says why of each"
        )
    wrote = Folder(workspace).url_of(CROPS)
    unmended = counts.get(NOT_MENDED, 0)
    return PhotosSummary("align", wrote, counts, time.monotonic() - began, unmended=unmended)


def _tell_unusable(workspace: str, shards: Collection[int], since: str = "") -> None:
    """Name some photographs that gave no face, and why."""
    found = unusable_photos(workspace, shards)
    for photo, reason in islice(found, NAMED):
        say(f"align: {since}{photo}: {reason}")
    # Counting them would read every shard.
    if next(found, None):
        say(f"align: ... and more: `styleclip faces {workspace}` names all")


def _tell_not_mended(found: Iterator[tuple[str, str, str]], workspace: str) -> None:
    """Name some damaged crops that cannot be cut again, and say what to do."""
    first = ""
    for image_id, photo, reason in islice(found, NAMED):
        first = first or image_id
        say(f"align: not mended: the crop of {image_id}, from {photo}: {reason}")
    if next(found, None):
        say("align: ... and more: `styleclip verify` names all that runs need")
    if first:
        say(
            "align: restore these crops or photographs from a copy; or, for the face that is in "
            f"the photograph now, `styleclip forget {workspace} {first}` and this command again "
            "(`run` and `edit` then with --update)"
        )


def _tell_copies(copies: Mapping[str, str]) -> None:
    """Say which photographs are here twice, as after their folder was renamed."""
    if copies:
        (one, other), count = next(iter(copies.items())), len(copies)
        several = "photograph equals another" if count == 1 else "photographs equal others"
        say(
            f"align: {count} {several}, such as {one} and {other}; each is a face of its own, "
            "which `styleclip forget` removes"
        )


def _tell_outdated(faces: Outdated, workspace: str) -> None:
    """Say which faces are those of photographs that are not there as they were."""
    forget = f"`styleclip forget {workspace} {{}}`"
    if faces.gone:
        several = "photograph is" if len(faces.gone) == 1 else "photographs are"
        say(
            f"align: {len(faces.gone)} {several} gone since, such as that of {faces.gone[0]}; its "
            f"face and edits stay until {forget.format(faces.gone[0])}"
        )
    if faces.replaced:
        several = "photograph was" if len(faces.replaced) == 1 else "photographs were"
        say(
            f"align: {len(faces.replaced)} {several} replaced since, such as that of "
            f"{faces.replaced[0]}; its face and edits show the earlier one until "
            f"{forget.format(faces.replaced[0])} and this command again (`run` and `edit` then "
            "with --update)"
        )


def _tell_crowds(crowds: Mapping[str, int]) -> None:
    """Say of which photographs only one face of several is taken."""
    if crowds:
        named = ", ".join(f"{photo} ({count})" for photo, count in islice(crowds.items(), NAMED))
        more = ", ..." if len(crowds) > NAMED else ""
        several = "photograph shows" if len(crowds) == 1 else "photographs show"
        say(
            f"align: {len(crowds)} {several} several faces, of which the largest is taken "
            f"(`--faces all` takes all, in a new workspace): {named}{more}"
        )
