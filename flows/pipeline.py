"""Photographs in, edited photographs and a report out."""

import time
from collections.abc import Iterator
from typing import Annotated

from cyclopts import Parameter

from flows.align import ALIGN_SHARD, align_photos
from flows.edit import EDIT_SHARD, edit_dataset
from flows.evaluate import evaluate_run
from flows.forecast import estimate
from flows.guards import guarded_flow
from flows.invert import invert_faces
from flows.options import AGAIN, DIRECTIONS, MachineInt, MachineStr, PositiveInt, RedoDamaged
from flows.progress import describe_counts, say
from flows.steps import step
from flows.summary import Summary
from manifests.schemas import ALL_FAILURES
from tasks.arithmetic import AUTO, name_arithmetic
from tasks.bundles import DEMO_MODELS
from tasks.directions import RelevanceConfig
from tasks.forecast import Forecast, RowsToCome, StageForecast
from tasks.frozen import read_card
from tasks.latents import latent_folder
from tasks.manifest_files import build_manifest, read_prompts, usable_faces
from tasks.models import open_models
from tasks.photos.alignment import AlignmentConfig, FacesPolicy
from tasks.runs import (
    ROLES_OF_A_RUN,
    ImageFormat,
    OutputLayout,
    require_run_name,
    run_folder,
    settings_for,
)
from tasks.selection import (
    NOTHING,
    Redo,
    read_selection,
    require_no_selection,
    statuses_to_retry,
)
from tasks.store.folders import Folder
from tasks.surveys import survey_prompts


@guarded_flow("run-pipeline")
def run_pipeline(
    photos: str,
    prompts: str,
    workspace: str,
    *,
    run: str = "run",
    models: str = DEMO_MODELS,
    relevance: Annotated[RelevanceConfig | None, Parameter(name="*", group=DIRECTIONS)] = None,
    faces: FacesPolicy = "largest",
    crop_size: PositiveInt = 256,
    minimum_face: float = 32.0,
    image_format: ImageFormat = "png",
    output: OutputLayout = "files",
    device: MachineStr = "auto",
    batch_size: MachineInt = 8,
    arithmetic: MachineStr = AUTO,
    shard_size: MachineInt = EDIT_SHARD,
    workers: MachineInt = 1,
    engine: MachineStr = "threads",
    retry_failed: str = "",
    update: bool = False,
    redo_damaged: RedoDamaged = False,
    redo: Annotated[Redo, Parameter(name="*", group=AGAIN)] = NOTHING,
    dry_run: bool = False,
    price_per_hour: float = 0.0,
) -> Summary:
    """Align, invert, edit and judge: every photograph with every prompt.

    Each stage continues where it was stopped.

    Args:
        photos: A folder, a glob, an object-store prefix, or a CSV or Parquet listing.
        prompts: CSV or Parquet of prompts: target_prompt, and where wanted neutral_prompt, method,
            alpha, beta or num_channels, options.
        workspace: Folder or URL that holds all data.
        run: Name of the run; its folder is runs/NAME in the workspace.
        models: Bundle of weights: the URL of its JSON file, or `demo`.
        relevance: How to measure directions; as those that are there were, if nothing is said.
        faces: If a photograph shows several people: take the largest face, all, or none of them
            (reject_several).
        crop_size: Side of the crops in pixels. The encoders see 256; larger ones are for people.
        minimum_face: Smallest face crop to accept, in pixels of the photograph. The detector finds
            none below about 76, of 12 megapixels about 160, so that the default takes all.
        image_format: Of the edited images; both are lossless and carry their provenance.
        output: Single files, or a tar a shard in the layout of webdataset.
        device: auto, cpu, cuda, cuda:1, mps.
        batch_size: Images that are read and scored together; the generator has its own size.
        arithmetic: That edits are rendered in: float32, bfloat16, `bfloat16 channels_last
            compiled`, or auto: float32, or in large runs on devices with units for bfloat16 what
            is measured to be fastest and changes pixels by less than half a level of 8 bits.
        shard_size: Rows of a shard; one that is stopped begins again.
        workers: Shards at a time; of photographs two at least.
        engine: threads, processes, dask, ray, or a cluster as dask:tcp://HOST:8786.
        retry_failed: Do edits again whose status is one of these, separated by commas (no_latent,
            failed, no_channel). Where none is named, all that are not ok, and look again at
            photographs without a face.
        update: Take over further photographs, other prompts, networks and assets: what is new or
            depends on them is computed, edits that are no longer asked for leave the results.
        redo_damaged: Also do again what is lost or not as it was committed: crops, latents and
            edits, which reads all of them.
        redo: What to do again of the results that are there.
        dry_run: Say what the run will take, from a few seconds of each stage, and write nothing.
        price_per_hour: What an hour of this machine costs, for the dry run.
    """
    # Mistakes are told before hours of work.
    require_run_name(run)
    arithmetic = name_arithmetic(arithmetic)
    retry, again = statuses_to_retry(retry_failed), read_selection(redo, redo_damaged)
    if dry_run:
        require_no_selection(again, redo_damaged)

        def stages(forecast: Forecast) -> Iterator[StageForecast]:
            alignment = AlignmentConfig(crop_size, faces, float(minimum_face))
            stage, more = forecast.align(photos, alignment, ALIGN_SHARD)
            yield stage
            yield forecast.invert(len(more), batch_size)
            known = [*_faces_for(workspace, models, device), *more]
            settings = settings_for(workspace, models, device, image_format, output, arithmetic)
            asked = read_prompts(prompts)
            rows = survey_prompts(asked, prompts), RowsToCome(known, asked)
            yield from forecast.edit(
                run, *rows, settings, relevance, batch_size, shard_size, retry, update
            )
            yield forecast.evaluate()

        return estimate(workspace, models, device, price_per_hour, stages)
    asked, began = read_prompts(prompts), time.monotonic()
    networks, folder = open_models(models, device), run_folder(workspace, run)
    networks.bundle.require(*ROLES_OF_A_RUN)
    # Of a run that continues they were told when it was begun.
    if update or not read_card(folder):
        survey_prompts(asked, prompts).require_doable(networks)
    # Photographs and faces have other statuses than rows, and those have no names here.
    all_failures = retry_failed if retry_failed == ALL_FAILURES else ""
    align = step(align_photos)(
        photos,
        workspace,
        faces=faces,
        crop_size=crop_size,
        minimum_face=minimum_face,
        workers=max(workers, 2),
        engine=engine,
        retry_failed=all_failures,
        redo_damaged=redo_damaged,
    )
    say(align.line)
    invert = step(invert_faces)(
        workspace,
        models=models,
        device=device,
        batch_size=batch_size,
        workers=workers,
        engine=engine,
        retry_failed=all_failures,
        redo_damaged=redo_damaged,
    )
    say(invert.line)
    manifest = folder.url_of("pairs.parquet")
    build_manifest(_faces_for(workspace, models, device), asked, manifest)
    edit = step(edit_dataset)(
        workspace,
        manifest,
        run=run,
        models=models,
        relevance=relevance,
        image_format=image_format,
        output=output,
        device=device,
        batch_size=batch_size,
        arithmetic=arithmetic,
        shard_size=shard_size,
        workers=workers,
        engine=engine,
        retry_failed=retry_failed,
        update=update,
        redo_damaged=redo_damaged,
        redo=redo,
    )
    say(edit.line)
    report = step(evaluate_run)(workspace, run=run, device=device)
    verdicts = report.facts["verdicts"]
    facts: dict[str, object] = {"run": edit.wrote, "verdicts": verdicts}
    facts |= {"align": dict(align.counts), "edit": dict(edit.counts)}
    told = describe_counts(verdicts)  # type: ignore[arg-type]
    aside = f"verdicts: {told}" if told else ""
    took = time.monotonic() - began
    return Summary(
        "run", report.wrote, edit.counts, took, facts, aside=aside, fruitless=edit.fruitless
    )


def _faces_for(workspace: str, models: str, device: str) -> list[str]:
    """Name the faces of a workspace that these networks have latents of, or will have."""
    networks = open_models(models, device)
    return usable_faces(workspace, latent_folder(Folder(workspace), networks).name)
