"""The direction store of a generator: what every style channel does in CLIP's eyes."""

import time
from typing import Annotated

from cyclopts import Parameter
from prefect import flow

from flows.engines import read_engine
from flows.shards import run_shards
from flows.share import read_share
from flows.stores import check_store
from flows.summary import Summary
from tasks.directions import (
    DirectionStore,
    RelevanceConfig,
    compute_relevance_shard,
    direction_folder,
    plan_relevance,
)
from tasks.models import DEMO_MODELS, open_models
from tasks.storage import Folder

_DEFAULT = RelevanceConfig()


@flow(name="build-relevance")
def build_relevance(
    workspace: str,
    *,
    models: str = DEMO_MODELS,
    relevance: Annotated[RelevanceConfig, Parameter(name="*")] = _DEFAULT,
    device: str = "auto",
    batch_size: int = 16,
    block_size: int = 128,
    workers: int = 1,
    engine: str = "threads",
    worker: str = "",
) -> Summary:
    """Measure the CLIP direction of every style channel, once for a generator.

    Stopped anywhere, it continues with the blocks of channels that are missing.

    Args:
        workspace: Folder or URL that holds all data.
        models: Bundle of weights: the URL of its JSON file, or `demo`.
        relevance: How to measure.
        device: auto, cpu, cuda, cuda:1, mps.
        batch_size: Images that go through the networks together.
        block_size: Channels of a shard.
        workers: Shards at a time.
        engine: threads, processes, dask, ray, or a cluster as dask:tcp://HOST:8786.
        worker: Without a server, one of several: 0/8 does shards 0, 8, 16 and so on of what
            `prepare` has planned before.
    """
    share, by, began = read_share(worker), read_engine(engine), time.monotonic()
    check_store(workspace)
    store = DirectionStore(
        direction_folder(Folder(workspace), open_models(models, device), relevance)
    )
    if share.prepares:
        shards = plan_relevance(workspace, models, device, relevance, block_size)
    else:
        share.require(store.exists, store.folder.url)
        shards = store.ledger.pending()
    arguments = {
        "workspace": workspace,
        "models": models,
        "device": device,
        "config": relevance,
        "batch_size": batch_size,
    }
    counts = run_shards(
        "relevance",
        compute_relevance_shard,
        shards,
        workers,
        arguments,
        share=share,
        engine=by,
    )
    return Summary("relevance", store.folder.url, counts, time.monotonic() - began)
