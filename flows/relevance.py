"""The direction store of a generator: what every style channel does in CLIP's eyes."""

import time
from typing import Annotated

from cyclopts import Parameter
from prefect import flow

from flows.shards import run_shards
from flows.stores import check_store
from flows.summary import Summary
from tasks.directions import (
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
    """
    began = time.monotonic()
    check_store(workspace)
    shards = plan_relevance(workspace, models, device, relevance, block_size)
    arguments = {
        "workspace": workspace,
        "models": models,
        "device": device,
        "config": relevance,
        "batch_size": batch_size,
    }
    counts = run_shards("relevance", compute_relevance_shard, shards, workers, arguments)
    networks = open_models(models, device)
    wrote = direction_folder(Folder(workspace), networks, relevance).url
    return Summary("relevance", wrote, counts, time.monotonic() - began)
