"""Aligned crops -> W+ latents."""

import time
from collections.abc import Mapping, Sequence
from itertools import islice

from flows.engines import read_engine
from flows.guards import guarded_flow
from flows.options import MachineInt, MachineStr, RedoDamaged
from flows.progress import NAMED, say
from flows.shards import run_shards
from flows.share import read_share
from flows.store_check import check_store
from flows.summary import Summary
from manifests.schemas import LATENT_FAILURES
from tasks.bundles import DEMO_MODELS
from tasks.inversion import (
    INVERT_SHARD,
    failed_latents,
    invert_faces_shard,
    plan_inversion,
    shards_to_invert,
)
from tasks.latents import LatentStore, latent_folder
from tasks.models import open_models
from tasks.photos.faces import faces_ledger
from tasks.places import WorkspaceError
from tasks.selection import statuses_to_retry
from tasks.store.folders import Folder
from tasks.store.ledger import Ledger


@guarded_flow("invert-faces")
def invert_faces(
    workspace: str,
    *,
    models: str = DEMO_MODELS,
    device: MachineStr = "auto",
    batch_size: MachineInt = 8,
    shard_size: MachineInt = INVERT_SHARD,
    workers: MachineInt = 1,
    engine: MachineStr = "threads",
    worker: MachineStr = "",
    retry_failed: str = "",
    redo_damaged: RedoDamaged = False,
) -> Summary:
    """Invert aligned faces with e4e into the Zarr store of W+ latents.

    Args:
        workspace: Folder or URL that holds all data.
        models: Bundle of weights: the URL of its JSON file, or `demo`.
        device: auto, cpu, cuda, cuda:1, mps.
        batch_size: Faces that are read together; the networks have a size of their own.
        shard_size: Faces of a shard of a new store.
        workers: Shards at a time.
        engine: threads, processes, dask, ray, or a cluster as dask:tcp://HOST:8786.
        worker: Without a server, one of several: 0/8 does shards 0, 8, 16 and so on of what
            `prepare` has planned before.
        retry_failed: Invert faces again whose status is one of these, separated by commas
            (unreadable, failed); all that failed where no status is named.
        redo_damaged: Also invert faces again whose latent is lost or not as it was committed, or
            whose crop was cut again and came out otherwise, and draw lost or damaged pictures of
            inversions again, which reads all of them.
    """
    share, by, began = read_share(worker), read_engine(engine), time.monotonic()
    retry = statuses_to_retry(retry_failed, LATENT_FAILURES)
    store = LatentStore(latent_folder(Folder(workspace), open_models(models, device)))
    if not faces_ledger(workspace).plans() and not store.ledger.plans():
        raise WorkspaceError(
            f"{workspace}: got no faces, expected those that `styleclip align PHOTOS {workspace}` "
            "finds"
        )
    check_store(workspace)
    if share.prepares:
        plan_inversion(workspace, models, device, shard_size)
        if not store.ledger.plans():
            raise WorkspaceError(
                f"{workspace}: got no usable face in any photograph; "
                "`styleclip align` told why, and its table of faces does"
            )
    share.require(bool(store.ledger.plans()), store.ledger.folder.url)
    arguments = {
        "workspace": workspace,
        "models": models,
        "device": device,
        "batch_size": batch_size,
        "retry": retry,
        "redo_damaged": redo_damaged,
    }
    if redo_damaged:
        shards = store.ledger.plans()
    else:
        shards = shards_to_invert(store.ledger, retry, share.of)
    counts = run_shards(
        "invert", invert_faces_shard, shards, workers, arguments, share=share, engine=by
    )
    if share.works:
        tell_failed_latents("invert", store.ledger, share.of(shards), counts)
    return Summary("invert", store.folder.url, counts, time.monotonic() - began)


def tell_failed_latents(
    label: str, ledger: Ledger, shards: Sequence[int], counts: Mapping[str, int]
) -> None:
    """Name some faces that got no sound latent, and why; where nothing was left to do, any.

    Args:
        label: Of the stage.
        ledger: Of the latents.
        shards: Those that were done now.
        counts: Their faces by status.
    """
    if {*counts} == {"ok"}:
        return
    since = "" if counts else "from before: "
    found = failed_latents(ledger, shards if counts else None)
    for image_id, reason in islice(found, NAMED):
        say(f"{label}: {since}{image_id}: {reason}")
    if next(found, None):
        say(f"{label}: ... and more")
