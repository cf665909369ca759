"""A manifest -> edited images and result rows."""

import time
from typing import Annotated

from cyclopts import Parameter
from prefect import flow

from flows.mappers import train_all
from flows.relevance import build_relevance
from flows.shards import run_shards
from flows.stores import check_store
from flows.summary import Summary
from tasks.directions import DirectionStore, RelevanceConfig, direction_folder
from tasks.edits import edit_pairs_shard
from tasks.manifest_files import stream_manifest, survey_manifest
from tasks.models import DEMO_MODELS, open_models
from tasks.runs import (
    ImageFormat,
    OutputLayout,
    freeze_manifest,
    open_run,
    run_folder,
    run_ledger,
    settings_for,
)
from tasks.storage import Folder

_DEFAULT = RelevanceConfig()


@flow(name="edit-dataset")
def edit_dataset(
    workspace: str,
    manifest: str,
    *,
    run: str = "run",
    models: str = DEMO_MODELS,
    relevance: Annotated[RelevanceConfig, Parameter(name="*")] = _DEFAULT,
    image_format: ImageFormat = "png",
    output: OutputLayout = "files",
    device: str = "auto",
    batch_size: int = 8,
    shard_size: int = 256,
    workers: int = 1,
) -> Summary:
    """Edit every pair of a manifest; one result row for each of its rows.

    What the rows need and the workspace lacks is made first: the direction store for the method
    `global`, one mapper a prompt for `mapper`. Stopped anywhere, the same command continues.

    Args:
        workspace: Folder or URL that holds all data.
        manifest: CSV or Parquet, one row an edited image.
        run: Name of the run; its folder is runs/NAME in the workspace.
        models: Bundle of weights: the URL of its JSON file, or `demo`.
        relevance: How to measure directions that are not there.
        image_format: Of the edited images; both are lossless and carry their provenance.
        output: Single files, or a tar a shard in the layout of webdataset.
        device: auto, cpu, cuda, cuda:1, mps.
        batch_size: Edits that go through the networks together.
        shard_size: Rows of a shard.
        workers: Shards at a time.
    """
    began = time.monotonic()
    check_store(workspace)
    folder = run_folder(workspace, run)
    methods, mappers = survey_manifest(manifest)
    directions = None
    if "global" in methods:
        build_relevance(workspace, models=models, relevance=relevance, device=device)
        networks = open_models(models, device)
        directions = DirectionStore(direction_folder(Folder(workspace), networks, relevance))
    if mappers:
        train_all(workspace, mappers, models, device, checkpoint_steps=200)
    settings = settings_for(workspace, models, device, directions, image_format, output, batch_size)
    open_run(folder, settings)
    rows = freeze_manifest(folder, stream_manifest(manifest), shard_size)
    arguments = {"run": folder.url, "device": device}
    shards = run_ledger(folder).pending()
    counts = run_shards("edit", edit_pairs_shard, shards, workers, arguments)
    return Summary("edit", folder.url, counts, time.monotonic() - began, {"rows": rows})
