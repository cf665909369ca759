"""Reports: a run's results as numbers, plots and a page, in the folder `report` of the run."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from manifests.schemas import METRICS, RESULTS
from tasks.bundles import DEMO_LIMITS, DEMO_MODELS
from tasks.places import PAGE, REPORT, RunPlaces
from tasks.report.comparison import (
    Comparison,
    Pairing,
    compare_runs,
    drift_rule,
    drift_sentences,
    pair_rows,
    telling_pairs,
)
from tasks.report.evaluation import Estimate, Evaluation, Places, evaluate_rows
from tasks.report.examples import Examples, find_examples
from tasks.report.gallery import OtherGallery, gallery_columns
from tasks.report.judgement import MOST_PROMPTS, Judgement, judge_pairs
from tasks.report.notes import instruments, is_own_judge, missing_notes, reader_notes
from tasks.report.page import ComparisonPart, Page, PromptPart, SideBySide, render_page
from tasks.report.pictures import Picture, find_edited, find_pictures
from tasks.report.plots import Plot, ordered_methods, stages_plot, status_plot, timing_plot
from tasks.report.prompt_parts import ReportMaterial, prompt_part, prompt_plots
from tasks.report.rows import Rows, collect_rows
from tasks.report.scoring import Criteria
from tasks.run_tables import RunTables, Stage, count_copies, read_run, read_stages
from tasks.stopwatch import time_spent
from tasks.store.folders import Folder

PLOTS = "plots"
SUMMARY, ROWS = "summary.json", "metrics.parquet"
# The parts of the work that take long: looking at edits again, and shrinking pictures.
JUDGED, PICTURES = "judging", "pictures"
OnProgress = Callable[[str, int, int], None]

# A page holds the rows of its gallery and a thumbnail of each; beyond this it is slow to open.
GALLERY_LIMIT = 10_000
_ELSEWHERE_TOLD = 3


@dataclass(frozen=True)
class ScoredRun:
    """A run with its numbers.

    Attributes:
        run: Its tables.
        rows: Its result rows.
        evaluation: Theirs.
        stages: What every stage did for it.
    """

    run: RunTables
    rows: Rows
    evaluation: Evaluation
    stages: Sequence[Stage]


@dataclass(frozen=True)
class Beside:
    """A run that another is compared with.

    Attributes:
        scored: The run.
        pairing: The pairs that both have.
        comparison: What they differ in.
        telling: See `tasks.report.comparison.telling_pairs`.
    """

    scored: ScoredRun
    pairing: Pairing
    comparison: Comparison
    telling: Mapping[str, int]


@dataclass(frozen=True)
class ReportSummary:
    """What was written.

    Attributes:
        page: URL of the page.
        summary: URL of the numbers as JSON.
        pairs: Result rows.
        failed: Rows whose status is not ok.
        waiting: Planned rows without a committed result.
        notes: What a reader must know before trusting the numbers.
        drift: What changed since the runs that this was compared with.
        drifted: Prompts and methods that did.
        unpaired: In what those differ that have no pair of this one, by their names.
        verdicts: Of every prompt and method, as a table of texts.
        missing: Notes about pictures of the gallery that are gone.
    """

    page: str
    summary: str
    pairs: int
    failed: int
    waiting: int
    notes: tuple[str, ...]
    drift: tuple[str, ...] = ()
    drifted: int = 0
    unpaired: Mapping[str, Sequence[str]] = field(default_factory=dict)
    verdicts: tuple[dict[str, str], ...] = ()
    missing: tuple[str, ...] = ()


def write_report(
    run_url: str,
    criteria: Criteria | None = None,
    on_progress: OnProgress | None = None,
    others: Sequence[str] = (),
    models: str = "",
    device: str = "auto",
) -> ReportSummary:
    """Evaluate a run and write its report, the page last.

    Args:
        run_url: Folder of the run.
        criteria: What counts as a success.
        on_progress: Called with JUDGED or PICTURES, how many of them are done, and of all.
        others: Folders of runs to compare it with.
        models: URL of the bundle whose networks look at edited pictures again; that of the run
            where empty.
        device: Where they run, see `tasks.models.open_models`.

    Raises:
        RunError: There is no such run.
        LedgerError: Results are not what was committed.
    """
    criteria = criteria or Criteria()
    with tempfile.TemporaryDirectory() as place:
        mine = _scored(read_run(run_url), criteria, Path(place, ROWS))
        theirs = [
            _scored(read_run(url), criteria, Path(place, f"{number}-{ROWS}"))
            for number, url in enumerate(others)
        ]
        names = _names([mine.run.places, *(one.run.places for one in theirs)])
        beside = [_beside(mine, one, name) for one, name in zip(theirs, names[1:], strict=True)]
        judgement = judge_pairs(
            mine.rows,
            mine.evaluation,
            mine.run.places,
            models or str(mine.run.values.get("models") or ""),
            device,
            on_progress and partial(on_progress, JUDGED),
        )
        drawn = on_progress and partial(on_progress, PICTURES)
        return _write(mine, beside, judgement, drawn)


def _scored(run: RunTables, criteria: Criteria, path: Path) -> ScoredRun:
    rows = collect_rows(run.ledger.results(run.shards), criteria, path)
    stages = [*read_stages(run, rows.count_statuses())]
    return ScoredRun(run, rows, evaluate_rows(rows, stages[0].counts, criteria), stages)


def _names(places: Sequence[RunPlaces]) -> list[str]:
    """Name runs: as their folders where these differ, else with their workspaces, else by URL."""
    ways: list[Callable[[RunPlaces], str]] = [
        lambda place: place.run.name,
        lambda place: f"{place.run.name} in {place.workspace.name}",
        lambda place: place.run.url,
    ]
    names = list[str]()
    for place in places:
        found = (way(place) for way in ways if [*map(way, places)].count(way(place)) == 1)
        names.append(next(found, place.run.url))
    return names


def _beside(mine: ScoredRun, theirs: ScoredRun, name: str) -> Beside:
    pairing = pair_rows(mine.rows, theirs.rows)
    numbers = (mine.rows, mine.evaluation), (theirs.rows, theirs.evaluation)
    assets = _other_assets(mine, theirs, pairing)
    comparison = compare_runs(*numbers, pairing, name, theirs.run.places.run.url, assets)
    return Beside(theirs, pairing, comparison, telling_pairs(mine.rows, theirs.rows, pairing))


def _other_assets(mine: ScoredRun, theirs: ScoredRun, pairing: Pairing) -> list[str]:
    """The kinds of assets that pairs of two runs were edited with, and that differ."""
    rows, runs = mine.rows, (mine.run, theirs.run)
    methods = {*rows.settings["method"].iloc[np.unique(rows.setting[pairing.mine])]}
    directions = {run.values.get("directions_fingerprint") for run in runs}
    # By their folders, which a workspace that was moved keeps.
    one, other = (
        {url.rpartition("/")[2]: mark for url, mark in (run.values.get("mappers") or {}).items()}
        for run in runs
    )
    common = one.keys() & other.keys()
    same = all(one[name] == other[name] for name in common) and bool(common or not one | other)
    found = ["directions"] if "global" in methods and len(directions) > 1 else []
    return found + (["mappers"] if "mapper" in methods and not same else [])


def _write(
    mine: ScoredRun,
    beside: Sequence[Beside],
    judgement: Judgement,
    advance: Callable[[int, int], None] | None,
) -> ReportSummary:
    run, rows, evaluation = mine.run, mine.rows, mine.evaluation
    report = run.places.run / REPORT
    report.take_in(ROWS, rows.path)
    examples = find_examples(rows, evaluation)
    telling = [int(one.pairing.mine[n]) for one in beside for n in one.telling.values()]
    shown = rows.table(_shown(rows, examples, telling))
    pictures = find_pictures(run.places, report, shown, advance)
    galleries = [_other_gallery(one, mine, report, shown) for one in beside]
    material = ReportMaterial(rows, evaluation, examples, pictures, shown["pair_id"])
    comparisons = [
        ComparisonPart(
            one.comparison,
            drift_sentences(one.comparison),
            [*_sides(one, material, shown, gallery.pictures)],
        )
        for one, gallery in zip(beside, galleries, strict=True)
    ]
    missing = tuple(missing_notes(pictures.missing, pictures.lost))
    notes = [
        *reader_notes(rows, evaluation, run.waiting, count_copies(run, rows.edited_faces())),
        *missing,
        *_demo_note(run.values),
        *_led_elsewhere(judgement),
        *_limits(len(shown), len(rows), len(material.prompts)),
    ]
    report.write(SUMMARY, _summary(mine, judgement, comparisons, notes))
    page = Page(
        name=run.places.run.name,
        facts=dict(_facts(run.values)),
        notes=notes,
        evaluation=evaluation,
        waiting=run.waiting,
        faces=len(rows.edited_faces()),
        methods=ordered_methods(rows.settings["method"]),
        prompts=_prompts(report, material),
        prompt_count=len(material.prompts),
        plots=_write_plots(report, _run_plots(mine)),
        glossary=_glossary(),
        gallery=gallery_columns(shown, pictures, galleries),
        side=max((picture.side for picture in pictures.edits.values()), default=0),
        instruments=instruments(rows),
        own_judge=bool(is_own_judge(rows).all()),
        judgement=judgement,
        stages=mine.stages,
        comparisons=comparisons,
        drift_rule=drift_rule(evaluation.criteria),
    )
    report.write(PAGE, render_page(page).encode())
    failed = len(rows) - evaluation.statuses.get("ok", 0)
    return ReportSummary(
        report.url_of(PAGE),
        report.url_of(SUMMARY),
        len(rows),
        failed,
        run.waiting,
        (*notes, *judgement.notes),
        tuple(sentence for part in comparisons for sentence in part.drift),
        sum(len(part.comparison.drifted) for part in comparisons),
        {
            part.comparison.name: part.comparison.apart
            for part in comparisons
            if part.comparison.apart
        },
        tuple(_verdicts(evaluation, judgement)),
        missing,
    )


def _verdicts(evaluation: Evaluation, judgement: Judgement) -> Iterator[dict[str, str]]:
    """The table of the first screen, as plain text."""
    for group in evaluation.by_prompt:
        best = evaluation.best_strength(group.method, group.target_prompt)
        told = {"prompt": group.target_prompt, "method": group.method}
        told |= {"verdict": best.verdict if best else "unscored"}
        told |= {"alpha": f"{best.alpha:g}" if best else ""}
        for name in ("success", "identity_kept", "off_target"):
            score = best.scores[name] if best else Estimate()
            told[name] = "" if score.mean is None else f"{score.mean:.2f}"
            if score.low is not None and score.high is not None:
                told[name] += f" ({score.low:.2f} to {score.high:.2f})"
        look = judgement.find(group.method, group.target_prompt)
        told |= {"leads more to": look.elsewhere if look else ""}
        shown = best or group
        yield told | {"pairs": f"{shown.pairs}", "failed": f"{shown.failed}"}


def _other_gallery(
    one: Beside, mine: ScoredRun, report: Folder, shown: pd.DataFrame
) -> OtherGallery:
    """The pairs of another run that go beside the shown ones."""
    pairing, theirs = one.pairing, one.scored
    at = np.searchsorted(pairing.mine, shown.index)
    at = np.minimum(at, max(len(pairing.mine) - 1, 0))
    both = pairing.mine[at] == shown.index.to_numpy() if len(pairing.mine) else at < 0
    places = dict(zip(shown.index[both].tolist(), pairing.theirs[at[both]].tolist(), strict=True))
    table = theirs.rows.table(np.array(sorted({*places.values()}), np.int32))
    same_store = theirs.run.places.workspace.url == mine.run.places.workspace.url
    edits = find_edited(theirs.run.places, report, table, same_store)
    return OtherGallery(
        one.comparison.name,
        {place: edits[other] for place, other in places.items() if other in edits},
        {
            place: float(shown.at[place, "directional_edit"] - table.at[other, "directional_edit"])
            for place, other in places.items()
        },
    )


def _sides(
    one: Beside, material: ReportMaterial, shown: pd.DataFrame, theirs: Mapping[int, Picture]
) -> Iterator[SideBySide]:
    for why, number in one.telling.items():
        place = int(one.pairing.mine[number])
        row = shown.loc[place]
        yield SideBySide(
            why=why,
            pair_id=row["pair_id"],
            image_id=row["image_id"],
            prompt=row["target_prompt"],
            method=row["method"],
            alpha=float(row["alpha"]),
            source=material.pictures.sources.get(row["image_id"]),
            mine=material.pictures.edits.get(place),
            theirs=theirs.get(place),
        )


def _shown(rows: Rows, examples: Examples, telling: Sequence[int]) -> Places:
    """Places of the rows of the gallery: all, or an even draw and the examples."""
    if len(rows) <= GALLERY_LIMIT:
        return np.arange(len(rows), dtype=np.int32)
    chosen = {place for found in examples.values() for one in found for place in one.strip}
    drawn = np.random.default_rng(0).choice(len(rows), GALLERY_LIMIT, replace=False)
    return np.array(sorted(chosen.union(drawn.tolist(), telling)), np.int32)


def _led_elsewhere(judgement: Judgement) -> Iterator[str]:
    told = [look.elsewhere_note for look in judgement.looks if look.elsewhere]
    if told:
        more = f", and {len(told) - _ELSEWHERE_TOLD} more" if len(told) > _ELSEWHERE_TOLD else ""
        said = "; ".join(told[:_ELSEWHERE_TOLD])
        yield f"Edits that change something else, whatever their success: {said}{more}."


def _demo_note(values: Mapping[str, Any]) -> Iterator[str]:
    if values.get("models") == DEMO_MODELS:
        yield f"The networks of the demo made these edits: they {DEMO_LIMITS}."


def _limits(shown: int, rows: int, prompts: int) -> Iterator[str]:
    if shown < rows:
        yield f"The gallery holds {shown:,} of {rows:,} pairs, drawn evenly."
    if prompts > MOST_PROMPTS:
        yield (
            f"The page shows {MOST_PROMPTS} of {prompts:,} prompts in full; "
            f"the others are in the gallery and in {SUMMARY}."
        )


def _prompts(report: Folder, material: ReportMaterial) -> list[PromptPart]:
    parts = []
    for number, prompt in enumerate(material.prompts[:MOST_PROMPTS], 1):
        plots = prompt_plots(material, prompt)
        addresses = _write_plots(report, plots, f"prompt-{number:02d}-")
        parts.append(prompt_part(material, prompt, addresses))
    return parts


def _run_plots(mine: ScoredRun) -> dict[str, Plot]:
    rows, evaluation, plots = mine.rows, mine.evaluation, dict[str, Plot]()
    captions = {
        "align": "Photographs and faces by status",
        "invert": "Inversions by status",
        "edit": "Pairs of this run by status",
    }
    for stage in mine.stages:
        if stage.counts and stage.name in captions:
            plots[stage.name] = status_plot(captions[stage.name], stage.counts)
    if any(stage.seconds for stage in mine.stages):
        plots["stages"] = stages_plot({s.name: s.seconds for s in mine.stages if s.seconds})
    if evaluation.timing:
        methods, seconds = ordered_methods(evaluation.timing), rows.column("seconds")
        places = {method: rows.find(rows.of(method=method)) for method in methods}
        plots["seconds"] = timing_plot({m: seconds[own] for m, own in places.items()})
    return plots


def _write_plots(report: Folder, plots: Mapping[str, Plot], prefix: str = "") -> dict[str, Plot]:
    """Write plots; return them by their address for the page."""
    for name, plot in plots.items():
        (report / PLOTS).write(f"{prefix}{name}.svg", plot.svg)
    return {f"{PLOTS}/{prefix}{name}.svg": plot for name, plot in plots.items()}


def _glossary() -> dict[str, str]:
    """What the score columns are, from their schema."""
    facts = {field.name: field.metadata for field in RESULTS if field.metadata}
    return {
        name: f"{facts[name][b'description'].decode()} {facts[name].get(b'unit', b'').decode()}."
        for name in ("clip_cosine_inversion", *METRICS)
    }


def _facts(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The values of run.json in one level, without those that are empty."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _facts(value, f"{prefix}{name}: ")
        elif value not in (None, ""):
            yield f"{prefix}{name}".replace("_", " "), str(value)


def _summary(
    mine: ScoredRun,
    judgement: Judgement,
    comparisons: Sequence[ComparisonPart],
    notes: Sequence[str],
) -> bytes:
    run, evaluation = mine.run, mine.evaluation
    best = [
        evaluation.best_strength(group.method, group.target_prompt)
        for group in evaluation.by_prompt
    ]
    summary = {
        "format": 1,
        "run": dict(run.values),
        "notes": list(notes),
        "definitions": dict(evaluation.criteria.definitions()),
        "instruments": dict(instruments(mine.rows)),
        "waiting": run.waiting,
        "time": time_spent(run.ledger),
        "stages": [asdict(stage) for stage in mine.stages],
        "best_strengths": [
            {"verdict": group.verdict} | asdict(group) for group in best if group is not None
        ],
        "judgement": asdict(judgement)
        | {"frechet": {name: found._asdict() for name, found in judgement.frechet.items()}},
        "comparisons": [asdict(part.comparison) | {"drift": part.drift} for part in comparisons],
    }
    text = json.dumps(summary | asdict(evaluation), indent=1, allow_nan=False)
    return text.encode()
