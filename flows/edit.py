"""A manifest -> edited images and result rows."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated

from cyclopts import Parameter

from flows.artifacts import show_run
from flows.assets import make_assets, settle_relevance
from flows.engines import read_engine
from flows.forecast import estimate
from flows.guards import guarded_flow
from flows.options import AGAIN, DIRECTIONS, MachineInt, MachineStr, RedoDamaged
from flows.progress import describe_counts, say
from flows.shards import run_shards
from flows.share import Share, read_share
from flows.store_check import check_store
from flows.summary import Summary
from tasks.arithmetic import AUTO, name_arithmetic
from tasks.bundles import DEMO_MODELS
from tasks.directions import RelevanceConfig
from tasks.edits import EDIT_BATCH, edit_pairs_shard
from tasks.forecast import Forecast, StageForecast
from tasks.frozen import freeze_manifest, read_card
from tasks.manifest_files import Manifest, usable_faces
from tasks.models import open_models
from tasks.runs import (
    ImageFormat,
    OutputLayout,
    check_run,
    failed_rows,
    open_run,
    relevance_of,
    require_latents,
    require_run_name,
    run_folder,
    run_ledger,
    settings_for,
    shards_to_do,
    store_of,
)
from tasks.selection import (
    NOTHING,
    Redo,
    read_selection,
    require_no_selection,
    shards_to_redo,
    statuses_to_retry,
)
from tasks.store.folders import Folder
from tasks.surveys import images_without_latents, require_doable_edits, survey_manifest

# Shorter preparations are not mentioned.
_TOLD_PREPARATION = 2.0
# Rows of a shard: of more, more would be lost to whoever stops a run of slow edits.
EDIT_SHARD = 64
_WITHOUT = "give this command without --only-..., --since and --before"


@guarded_flow("edit-dataset")
def edit_dataset(
    workspace: str,
    manifest: str,
    *,
    run: str = "run",
    models: str = DEMO_MODELS,
    relevance: Annotated[RelevanceConfig | None, Parameter(name="*", group=DIRECTIONS)] = None,
    image_format: ImageFormat = "png",
    output: OutputLayout = "files",
    device: MachineStr = "auto",
    batch_size: MachineInt = EDIT_BATCH,
    arithmetic: MachineStr = AUTO,
    shard_size: MachineInt = EDIT_SHARD,
    workers: MachineInt = 1,
    engine: MachineStr = "threads",
    worker: MachineStr = "",
    retry_failed: str = "",
    update: bool = False,
    redo_damaged: RedoDamaged = False,
    redo: Annotated[Redo, Parameter(name="*", group=AGAIN)] = NOTHING,
    dry_run: bool = False,
    price_per_hour: float = 0.0,
) -> Summary:
    """Edit every pair of a manifest; one result row for each of its rows.

    What the rows need and the workspace lacks is made first: the direction store for the method
    `global`, one mapper a prompt for `mapper`. Stopped anywhere, the same command continues.
    Another manifest, other networks or assets are refused, unless the run is to be updated.

    Args:
        workspace: Folder or URL that holds all data.
        manifest: CSV or Parquet, one row an edited image.
        run: Name of the run; its folder is runs/NAME in the workspace.
        models: Bundle of weights: the URL of its JSON file, or `demo`.
        relevance: How to measure directions; as those that are there were, if nothing is said.
        image_format: Of the edited images; both are lossless and carry their provenance.
        output: Single files, or a tar a shard in the layout of webdataset.
        device: auto, cpu, cuda, cuda:1, mps.
        batch_size: Edits that are read and scored together; the generator has its own size.
        arithmetic: That edits are rendered in: float32, bfloat16, `bfloat16 channels_last
            compiled`, or auto: float32, or in large runs on devices with units for bfloat16 what
            is measured to be fastest and changes pixels by less than half a level of 8 bits.
        shard_size: Rows of a shard; one that is stopped begins again.
        workers: Shards at a time.
        engine: threads, processes, dask, ray, or a cluster as dask:tcp://HOST:8786.
        worker: Without a server, one of several: 0/8 does shards 0, 8, 16 and so on of what
            `prepare` has planned before, and reads no manifest.
        retry_failed: Do rows again whose status is one of these, separated by commas (no_latent,
            failed, no_channel); all but ok where no status is named.
        update: Take over a changed manifest, and changed networks and assets: what is new or
            depends on them is computed, rows that are gone leave the results, the others stay.
        redo_damaged: Also do rows again whose picture is lost or not as it was committed, or whose
            face has another latent since, which reads all of them.
        redo: What to do again of the results that are there.
        dry_run: Say what the edits will take, from a few seconds of them, and write nothing.
        price_per_hour: What an hour of this machine costs, for the dry run.
    """
    require_run_name(run)
    retry, share = statuses_to_retry(retry_failed), read_share(worker)
    again, arithmetic = read_selection(redo, redo_damaged), name_arithmetic(arithmetic)
    # Opens the networks, which is left until the rest is known to be right.
    asked_settings = partial(
        settings_for, workspace, models, device, image_format, output, arithmetic
    )
    if dry_run:
        require_no_selection(again, redo_damaged)

        def stages(forecast: Forecast) -> Iterator[StageForecast]:
            settings = asked_settings()
            rows = survey_manifest(manifest), Manifest(manifest)
            yield from forecast.edit(
                run, *rows, settings, relevance, batch_size, shard_size, retry, update
            )

        return estimate(workspace, models, device, price_per_hour, stages)
    by = read_engine(engine)
    began = time.monotonic()
    check_store(workspace)
    folder = run_folder(workspace, run)
    prepared = 0.0
    if share.prepares:
        needs, asked = survey_manifest(manifest), Manifest(manifest)
        settings, networks, measured = asked_settings(), open_models(models, device), None
        if "global" in needs.methods:
            begun = relevance_of(folder, workspace, networks)
            measured = settle_relevance(workspace, models, device, relevance, begun)
        require_doable_edits(folder, needs, asked, settings, networks, measured, update)
        require_latents(settings)
        if update or not read_card(folder):
            lacking = images_without_latents(asked, store_of(settings))
            _tell_lacking(lacking, workspace, manifest, models)
        assets = make_assets(workspace, needs, models, measured, device, workers, engine)
        # It took hours, and others may have written meanwhile.
        needs.require_unchanged(asked)
        open_run(folder, settings.with_assets(*assets), update)
        rows = freeze_manifest(folder, asked, shard_size, update)
        prepared = time.monotonic() - began
    else:
        rows = read_card(folder).get("rows", 0)
        share.require(rows > 0, folder.url)
        check_run(folder, asked_settings(), open_models(models, device), None)
    arguments = {
        "run": folder.url,
        "device": device,
        "retry": retry,
        "again": again,
        "batch_size": batch_size,
        "redo_damaged": redo_damaged,
    }
    if redo_damaged:
        shards, left = run_ledger(folder).plans(), 0
    elif again is None:
        shards, left = shards_to_do(folder, retry, share.of), 0
    else:
        shards, left = shards_to_redo(folder, again, retry, share.of)
    counts = run_shards(
        "edit", edit_pairs_shard, shards, workers, arguments, share=share, engine=by
    )
    if counts:
        show_run(folder.url)
    _tell_failed(folder, shards, counts, share)
    done, asides = sum(counts.values()), list[str]()
    if share.works and done < rows:
        asides.append(f"{rows:,} rows in all")
    if prepared >= _TOLD_PREPARATION:
        asides.append(f"{prepared:.0f} s of it for directions, mappers and the manifest")
    is_whole, took = share.prepares and share.works, time.monotonic() - began
    return Summary(
        "edit",
        folder.url,
        counts,
        took,
        {"rows": rows},
        aside="; ".join(asides),
        fruitless=is_whole and not (counts or left or run_ledger(folder).has_ok()),
        undone=f"{describe_counts({'rows': left})} never done: {_WITHOUT}" if left else "",
    )


def _tell_lacking(lacking: Counter[str], workspace: str, manifest: str, models: str) -> None:
    """Say of how many rows it is known before that they cannot be edited."""
    if not lacking:
        return
    count, faces = lacking.total(), {*usable_faces(workspace)}
    several = "row names an image" if count == 1 else "rows name images"
    say(f"edit: {count:,} {several} without a latent, and will be no_latent")
    bundle = "" if models == DEMO_MODELS else f" --models {models}"
    if waiting := [name for name in lacking if name in faces]:
        say(
            f"edit: not inverted by these networks: {_some(waiting)}; `styleclip invert "
            f"{workspace}{bundle}` does that or says why not, and `styleclip latents import` takes "
            "in latents for them"
        )
    if unknown := [name for name in lacking if name not in faces]:
        say(
            f"edit: no faces of {workspace}: {_some(unknown)}; `styleclip manifest validate "
            f"{manifest} --workspace {workspace}` says which rows, and what may be meant"
        )


def _some(names: Sequence[str]) -> str:
    more = len(names) - 1
    return names[0] + (f" and {more:,} more" if more else "")


def _tell_failed(
    folder: Folder, shards: Sequence[int], counts: Mapping[str, int], share: Share
) -> None:
    """Say what failed now; where nothing was left to do, what failed before."""
    if share.works and {*counts} - {"ok"}:
        for status, _, example in failed_rows(folder, shards):
            say(f"edit: {status}, such as {example}")
    elif not counts and share.prepares:
        for status, count, example in failed_rows(folder):
            say(f"edit: {count:,} {status} from before, such as {example}; see --retry-failed")
