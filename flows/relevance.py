"""The direction store of a generator: what every style channel does in CLIP's eyes."""

import time
from collections import Counter
from functools import partial
from typing import Annotated

from cyclopts import Parameter

from flows.engines import read_engine
from flows.guards import guarded_flow
from flows.options import DIRECTIONS, MACHINE, MachineInt, MachineStr
from flows.progress import progress_bar, say
from flows.shards import run_shards
from flows.share import read_share
from flows.store_check import check_store
from flows.summary import Summary
from tasks.bundles import DEMO_MODELS
from tasks.directions import (
    CHECK,
    MEASURE,
    RELEVANCE_BATCH,
    DirectionStore,
    RelevanceConfig,
    compute_relevance_shard,
    direction_folder,
    measured_otherwise,
    plan_relevance,
)
from tasks.models import open_models
from tasks.store.folders import Folder

_DEFAULT = RelevanceConfig()
# Images that show what a prompt does, if not how well.
_FIRST_LOOK = 12


@guarded_flow("build-relevance")
def build_relevance(
    workspace: str,
    *,
    models: str = DEMO_MODELS,
    relevance: Annotated[RelevanceConfig, Parameter(name="*", group=DIRECTIONS)] = _DEFAULT,
    device: MachineStr = "auto",
    batch_size: MachineInt = RELEVANCE_BATCH,
    shard_size: Annotated[int | None, Parameter(group=MACHINE)] = None,
    workers: MachineInt = 1,
    engine: MachineStr = "threads",
    worker: MachineStr = "",
) -> Summary:
    """Measure the CLIP direction of every style channel, once for a generator.

    Stopped anywhere, it continues with the blocks of sample images that are missing.

    Args:
        workspace: Folder or URL that holds all data.
        models: Bundle of weights: the URL of its JSON file, or `demo`.
        relevance: How to measure.
        device: auto, cpu, cuda, cuda:1, mps.
        batch_size: Images that go through the networks together.
        shard_size: Sample images of a shard; such that there are about 32 shards by default.
        workers: Shards at a time.
        engine: threads, processes, dask, ray, or a cluster as dask:tcp://HOST:8786.
        worker: Without a server, one of several: 0/8 does shards 0, 8, 16 and so on of what
            `prepare` has planned before.
    """
    share, by, began = read_share(worker), read_engine(engine), time.monotonic()
    check_store(workspace)
    networks = open_models(models, device)
    store = DirectionStore(direction_folder(Folder(workspace), networks, relevance))
    if share.prepares:
        if relevance.mode != "imported":
            _announce(workspace, models, device, relevance)
        plan = partial(plan_relevance, workspace, models, device, relevance, shard_size)
        if relevance.mode == "imported" or store.exists:
            plan()
        else:
            with progress_bar("statistics", relevance.num_statistics) as bar:
                plan(bar.advance)
    else:
        share.require(store.exists and not store.pending(CHECK), store.folder.url)
    measure = partial(
        run_shards,
        work=compute_relevance_shard,
        workers=workers,
        arguments={
            "workspace": workspace,
            "models": models,
            "device": device,
            "config": relevance,
            "batch_size": batch_size,
        },
        engine=by,
        tells=True,
    )
    counts = Counter(measure("relevance-check", shards=store.pending(CHECK)))
    counts.update(measure("relevance", shards=store.pending(MEASURE), share=share))
    if share.works:
        counts.update(store.combine())
        if not counts and not store.ledger.pending():
            # A store that lost something is not done.
            store.read()
    fidelity = store.fidelity
    if counts and fidelity is not None:
        say(
            "relevance: mean cosine to directions of the mode exact, estimated: "
            f"{fidelity:.2f} (1 is the same, 0.9 or more is good)"
        )
    facts = {} if fidelity is None else {"fidelity": fidelity}
    return Summary("relevance", store.folder.url, dict(counts), time.monotonic() - began, facts)


def _announce(workspace: str, models: str, device: str, relevance: RelevanceConfig) -> None:
    folder, networks = Folder(workspace), open_models(models, device)
    store = DirectionStore(direction_folder(folder, networks, relevance))
    if store.exists and not store.ledger.pending():
        return
    fewer = "; a dozen do for a first look" if relevance.num_images > _FIRST_LOOK else ""
    say(
        "relevance: what each style channel does is measured first, once for these networks, on "
        f"{relevance.num_images} images (--num-images{fewer})"
    )
    for url, options in measured_otherwise(folder, networks, relevance).items():
        say(f"relevance: what is in {url} would be used instead with {options}")
