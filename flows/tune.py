"""A target -> the smallest strengths that reach it, as a manifest."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from flows.artifacts import show_table
from flows.assets import make_assets, settle_relevance
from flows.guards import guarded_flow
from flows.options import DIRECTIONS, MachineInt, MachineStr, NaturalInt, PositiveInt
from flows.progress import console, printable, progress_bar, say
from flows.shards import GPU_TAG, guarded_task
from flows.steps import has_server
from flows.store_check import check_store
from flows.summary import Summary
from manifests.instructions import DEFAULT_NEUTRAL_PROMPT, Instruction
from manifests.schemas import Method
from styleclip_ops.strength import StrengthPoint, StrengthTarget
from tasks.bundles import DEMO_MODELS
from tasks.directions import RelevanceConfig
from tasks.manifest_files import build_manifest, read_asked, require_parquet
from tasks.models import open_models
from tasks.report.tuning_page import write_tuning_page
from tasks.runs import settings_for
from tasks.store.folders import is_file
from tasks.surveys import Survey, survey_prompts
from tasks.tuning import (
    MOST,
    Search,
    Tuned,
    TuningError,
    choose_images,
    prompts_to_tune,
    tune_prompt,
)

_TARGET = StrengthTarget()
# The means of a strength that are told, in this order.
_SCORES = ("directional", "identity", "gain")
_TUNE = guarded_task(tune_prompt, "tune-prompt", "tune-{asked.target_prompt}", tags=[GPU_TAG])


@guarded_flow("tune-strengths")
def tune_strengths(
    workspace: str,
    destination: str,
    *,
    prompts: str = "",
    target: list[str] | None = None,
    neutral: str = DEFAULT_NEUTRAL_PROMPT,
    method: Method = "global",
    goal: Annotated[StrengthTarget, Parameter(name="*")] = _TARGET,
    alpha: list[float] | None = None,
    num_channels: list[int] | None = None,
    image: list[str] | None = None,
    sample: PositiveInt = 16,
    sample_seed: NaturalInt = 0,
    bisections: int = 4,
    best_effort: bool = False,
    models: str = DEMO_MODELS,
    relevance: Annotated[RelevanceConfig | None, Parameter(name="*", group=DIRECTIONS)] = None,
    device: MachineStr = "auto",
    batch_size: MachineInt = 8,
) -> Summary:
    """Find the smallest strength of every prompt that reaches a target, and write a manifest.

    The target is one for the mean over a sample of images: directional similarity, CLIP gain, and
    identity. A grid of strengths is tried for every channel budget, then the interval below the
    first that reaches the target is halved; scores are monotone in the strength only roughly, so
    the smallest found is that of those tried. Of the numbers of channels the one is taken
    that keeps the identity best; of several that do so to a hundredth, the smallest. What was
    chosen is then scored on other images. A prompt whose target is not reached gets no rows, and it
    is said what came nearest and what limits it. The frontiers, and some faces, are shown in an
    HTML page beside the manifest.

    Args:
        workspace: Folder or URL that holds all data.
        destination: Parquet file to write: every image with every prompt at its strength.
        prompts: CSV or Parquet of prompts, see `manifest build`; alpha, beta and num_channels in
            it are not used.
        target: Target prompts, instead of a table.
        neutral: What the photographs show.
        method: global, mapper or optimize; the strength of the last two is the share of the way.
        goal: What to reach.
        alpha: Grid of strengths to begin with, instead of 1 to 10 (global) or 0.2 to 1.3 (others).
        num_channels: Channel budgets to try, instead of 10, 20, 50, 150; for the method global.
        image: Image ids, or patterns such as 'anna*', of the image set; all with a latent if none.
        sample: Images to try strengths on; as many others judge what was chosen.
        sample_seed: Which images.
        bisections: How often an interval is halved.
        best_effort: Write rows also where the target is not reached, with what came nearest.
        models: Bundle of weights: the URL of its JSON file, or `demo`.
        relevance: How to measure directions; as those that are there were, if nothing is said.
        device: auto, cpu, cuda, cuda:1, mps.
        batch_size: Images that are read and scored together; the generator has its own size.
    """
    require_parquet(destination)
    began = time.monotonic()
    given = read_asked(prompts, target or [], [], neutral_prompt=neutral, method=method)
    search = Search(goal, (*(alpha or ()),), (*(num_channels or ()),), bisections, batch_size)
    asked = prompts_to_tune(given)
    needs = _survey(asked, search)
    check_store(workspace)
    measured = None
    if "global" in needs.methods:
        measured = settle_relevance(workspace, models, device, relevance)
    # Mistakes are told before hours of work.
    needs.require_doable(open_models(models, device))
    settings = settings_for(workspace, models, device, "png", "files")
    images = choose_images(settings, image or (), sample, sample_seed)
    made = settings.with_assets(*make_assets(workspace, needs, models, measured, device))
    tuned = list[Tuned]()
    for one in asked:
        with progress_bar("tune", search.most_scored(one.method)) as bar:
            tune = _TUNE if has_server() else _TUNE.fn
            tuned.append(tune(made, device, one, images, search, bar.advance))
    networks = open_models(models, device)
    page = write_tuning_page(destination, tuned, images, search, not networks.has("judge"))
    chosen = [t.instruction for t in tuned if t.reached or (best_effort and t.chosen)]
    rows = build_manifest(images.images, chosen, destination) if chosen else 0
    if not rows and is_file(destination):
        say(f"tune: {destination} stays as an earlier call wrote it")
    _show(tuned, best_effort)
    facts = {
        "rows": rows,
        "page": page,
        "images": len(images.images),
        "sample": len(images.sample),
        "prompts": [t.facts for t in tuned],
    }
    wrote = f"{destination} and {page}" if rows else page
    return Summary("tune", wrote, _counts(tuned), time.monotonic() - began, facts)


def _survey(asked: Sequence[Instruction], search: Search) -> Survey:
    """What prompts need, of channels the most that they are to be tried with.

    Raises:
        TuningError: Numbers of channels are asked for, and no prompt has a method with channels.
    """
    if search.budgets and all(one.method != "global" for one in asked):
        raise TuningError(
            f"num_channels: got {[*search.budgets]}, expected none, which only the method global "
            "has"
        )
    widest = max(search.budgets, default=None)
    return survey_prompts(
        replace(one, num_channels=widest) if one.method == "global" else one for one in asked
    )


def _counts(tuned: Sequence[Tuned]) -> dict[str, int]:
    """Prompts by how they ended."""
    reached = [t for t in tuned if t.reached]
    doubtful = sum(t.check is not None and not t.check_reached for t in reached)
    counts = {
        "reached": len(reached) - doubtful,
        "reached on the sample alone": doubtful,
        "not reached": len(tuned) - len(reached),
    }
    return {status: count for status, count in counts.items() if count}


def _show(tuned: Sequence[Tuned], best_effort: bool) -> None:
    """Show the best of every budget, and what was chosen, on the terminal and in Prefect."""
    names = ("channels", "alpha", *_SCORES, "reached", "by images")
    rows = list[dict[str, str]]()
    for one in tuned:
        words = printable(one.instruction.target_prompt)
        table = Table(*names, title=escape(words), title_justify="left", title_style="bold")
        for budget in one.budgets:
            chosen = one.chosen is not None and budget.best is one.chosen
            cells = [str(budget.num_channels or ""), *_cells(budget.best)]
            cells.append("yes" if budget.found else "no")
            cells.append(f"{budget.best.share:.0%}" if budget.best else "")
            table.add_row(*cells, style="bold" * chosen)
            rows.append({"prompt": words, "method": one.instruction.method})
            rows[-1] |= dict(zip(names, cells, strict=True)) | {"why not": budget.limit}
        console.print(table)
        say(f"{one.instruction.target_prompt}: {_verdict(one, best_effort)}")
    show_table("tune", "Smallest strengths", rows)


def _verdict(tuned: Tuned, best_effort: bool) -> str:
    """What was chosen for a prompt, and what is wrong with it."""
    if tuned.chosen is None:
        return f"no strength could be tried; {tuned.limit}"
    asked = tuned.instruction
    channels = f" and {asked.num_channels} channels" if asked.num_channels else ""
    setting = f"alpha {asked.alpha:g}{channels}"
    if not tuned.reached:
        rows = "rows with it are written" if best_effort else "no rows are written"
        return f"not reached, {rows}; {setting} comes nearest; {tuned.limit}"
    share, check = tuned.chosen.share, tuned.check
    said = f"with {setting} the mean reaches the target, and {share:.0%} of single images do"
    if share < MOST:
        said += ", so that a few carry the mean: ask for more --directional or --gain to move all"
    if check is None:
        return f"{said}; there are no other images to check it on"
    if tuned.check_reached:
        return said
    scores = zip(_SCORES, _cells(check)[1:], strict=True)
    means = ", ".join(f"{name} {mean}" for name, mean in scores)
    return f"{said}; {check.num_images} other images do not reach it there ({means})"


def _cells(point: StrengthPoint | None) -> list[str]:
    if point is None:
        return [""] * 4
    means = (point.directional.mean, point.identity.mean, point.gain.mean)
    return [f"{point.alpha:g}", *(f"{mean:.3f}" for mean in means)]
