"""Latents and directions from and for other tools of the field."""

import time
from dataclasses import replace

from flows.guards import guarded_flow
from flows.invert import tell_failed_latents
from flows.options import MachineInt, MachineStr
from flows.progress import say
from flows.shards import run_shards
from flows.store_check import check_store
from flows.summary import Summary
from tasks.bundles import DEMO_MODELS
from tasks.directions import RelevanceConfig
from tasks.interchange import (
    keep_directions,
    names_beside,
    plan_import,
    read_directions,
    read_import,
    write_directions,
    write_latents,
)
from tasks.inversion import INVERT_SHARD, invert_faces_shard
from tasks.latents import LatentStore, latent_folder
from tasks.models import open_models
from tasks.store.folders import Folder, is_file

_IMPORTED = RelevanceConfig(mode="imported")


@guarded_flow("import-latents")
def import_latents(
    workspace: str,
    source: str,
    *,
    names: str = "",
    models: str = DEMO_MODELS,
    device: MachineStr = "auto",
    batch_size: MachineInt = 8,
    shard_size: MachineInt = INVERT_SHARD,
) -> Summary:
    """Take latents of another tool into the W+ store; they can then be edited like photographs.

    Args:
        workspace: Folder or URL that holds all data.
        source: latents.pt (a tensor) or w_plus.npy, [N, num_ws, w_dim].
        names: Text file with one image id in each line; where empty the .txt beside the file, as
            `latents export` writes it, and without one they are made of the file's name.
        models: Bundle of weights: the URL of its JSON file, or `demo`.
        device: auto, cpu, cuda, cuda:1, mps.
        batch_size: Images that are read together; the networks have a size of their own.
        shard_size: Faces of a shard of a new store.
    """
    began = time.monotonic()
    beside = names_beside(source)
    if not names and is_file(beside):
        names = beside
        say(f"import: takes the names in {names}")
    # What is refused leaves no workspace.
    latents = read_import(source, names, models, device)
    check_store(workspace)
    shards = plan_import(workspace, latents, models, device, shard_size)
    arguments = {
        "workspace": workspace,
        "models": models,
        "device": device,
        "batch_size": batch_size,
    }
    counts = run_shards("import", invert_faces_shard, shards, 1, arguments)
    store = LatentStore(latent_folder(Folder(workspace), open_models(models, device)))
    tell_failed_latents("import", store.ledger, shards, counts)
    return Summary("import", workspace, counts, time.monotonic() - began)


def export_latents(
    workspace: str, destination: str, *, models: str = DEMO_MODELS, device: str = "auto"
) -> Summary:
    """Write all latents of a workspace as one array, with their names beside it.

    Args:
        workspace: Folder or URL that holds all data.
        destination: A name ending in .npy or .pt.
        models: Bundle of weights that made them.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    began = time.monotonic()
    count = write_latents(workspace, destination, models, device)
    wrote = f"{destination} and {names_beside(destination)}"
    return Summary("export", wrote, {"latents": count}, time.monotonic() - began)


def import_directions(
    workspace: str,
    source: str,
    *,
    models: str = DEMO_MODELS,
    num_statistics: int = _IMPORTED.num_statistics,
    seed: int = _IMPORTED.seed,
    device: MachineStr = "auto",
) -> Summary:
    """Take the published fs3.npy into a direction store; edits use it with `--mode imported`.

    Args:
        workspace: Folder or URL that holds all data.
        source: fs3.npy, [C, E]: of all style channels but toRGB, or of those of the first layers.
        models: Bundle of weights that it was measured on.
        num_statistics: Random faces for the mean and deviation of S, which are measured; nothing
            else is. Edits have to say it too, where it is not the default.
        seed: Of the statistics.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    began = time.monotonic()
    published = read_directions(source, models, device)
    check_store(workspace)
    config = replace(_IMPORTED, num_statistics=num_statistics, seed=seed)
    store = keep_directions(workspace, published, models, device, config)
    channels = len(store.read().channel_clip_directions)
    counts = {"channels": channels, "channels without a direction": channels - published.rows}
    return Summary("import", store.folder.url, counts, time.monotonic() - began)


def export_directions(store: str, destination: str) -> Summary:
    """Write the channel CLIP directions of a store as the published fs3.npy.

    Args:
        store: Folder of a direction store, as `styleclip relevance` names it.
        destination: For example fs3.npy.
    """
    began = time.monotonic()
    channels, width = write_directions(store, destination)
    facts = {"shape": [channels, width]}
    return Summary("export", destination, {"channels": channels}, time.monotonic() - began, facts)
