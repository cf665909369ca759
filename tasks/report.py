"""Reports: a run's results as numbers, plots and a page, in the folder `report` of the run."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.schemas import METRICS, RESULTS
from tasks.evaluation import Evaluation, Places, evaluate_rows
from tasks.examples import Examples, find_examples
from tasks.gallery import gallery_columns
from tasks.ledger import Ledger
from tasks.page import Page, PromptPart, render_page
from tasks.pictures import find_pictures
from tasks.plots import Plot, ordered_methods, status_plot, timing_plot
from tasks.prompt_parts import Findings, prompt_part, prompt_plots
from tasks.report_notes import reader_notes
from tasks.report_rows import Rows, collect_rows
from tasks.run_tables import RunTables, read_run
from tasks.scoring import Criteria
from tasks.storage import Folder

REPORT, PLOTS = "report", "plots"
PAGE, SUMMARY, ROWS = "index.html", "summary.json", "metrics.parquet"

# A page holds the rows of its gallery and a thumbnail of each; beyond this it is slow to open.
GALLERY_LIMIT = 10_000
PROMPTS_LIMIT = 60


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
    """

    page: str
    summary: str
    pairs: int
    failed: int
    waiting: int
    notes: tuple[str, ...]


def write_report(
    run_url: str,
    criteria: Criteria | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> ReportSummary:
    """Evaluate a run and write its report, the page last.

    Args:
        run_url: Folder of the run.
        criteria: What counts as a success.
        advance: Called with the number of pictures done and of all.

    Raises:
        RunError: There is no such run.
        LedgerError: Results are not what was committed.
    """
    criteria = criteria or Criteria()
    run = read_run(run_url)
    with tempfile.TemporaryDirectory() as place:
        rows = collect_rows(run.ledger.results(run.shards), criteria, Path(place, ROWS))
        return _write(run, rows, criteria, advance)


def _write(
    run: RunTables,
    rows: Rows,
    criteria: Criteria,
    advance: Callable[[int, int], None] | None,
) -> ReportSummary:
    report = run.places.run / REPORT
    report.take_in(ROWS, rows.path)
    evaluation = evaluate_rows(rows, _face_counts(run.faces), criteria)
    examples = find_examples(rows, evaluation)
    shown = rows.table(_shown(rows, examples))
    digests = _crop_digests(run.faces, {*shown["image_id"]})
    pictures = find_pictures(run.places, report, shown, digests, advance)
    findings = Findings(rows, evaluation, examples, pictures, shown["pair_id"])
    notes = reader_notes(rows, evaluation, run.waiting, pictures.missing)
    notes += _limits(len(shown), len(rows), len(findings.prompts))
    report.write(SUMMARY, _summary(run, evaluation, notes))
    page = Page(
        name=run.places.run.name,
        facts=dict(_facts(run.values)),
        notes=notes,
        evaluation=evaluation,
        faces=len(rows.faces),
        methods=ordered_methods(rows.settings["method"]),
        prompts=_prompts(report, findings),
        plots=_write_plots(report, _run_plots(rows, evaluation)),
        glossary=_glossary(),
        gallery=gallery_columns(shown, pictures),
        side=max((picture.side for picture in pictures.edits.values()), default=0),
    )
    report.write(PAGE, render_page(page).encode())
    failed = len(rows) - evaluation.statuses.get("ok", 0)
    urls = report.url_of(PAGE), report.url_of(SUMMARY)
    return ReportSummary(*urls, len(rows), failed, run.waiting, tuple(notes))


def _shown(rows: Rows, examples: Examples) -> Places:
    """Places of the rows of the gallery: all, or an even draw and the examples."""
    if len(rows) <= GALLERY_LIMIT:
        return np.arange(len(rows), dtype=np.int32)
    chosen = {place for found in examples.values() for one in found for place in one.strip}
    drawn = np.random.default_rng(0).choice(len(rows), GALLERY_LIMIT, replace=False)
    return np.array(sorted(chosen.union(drawn.tolist())), np.int32)


def _limits(shown: int, rows: int, prompts: int) -> Iterator[str]:
    if shown < rows:
        yield f"The gallery holds {shown:,} of {rows:,} pairs, drawn evenly."
    if prompts > PROMPTS_LIMIT:
        yield (
            f"The page shows {PROMPTS_LIMIT} of {prompts:,} prompts in full; "
            f"the others are in the gallery and in {SUMMARY}."
        )


def _face_counts(faces: Ledger) -> dict[str, int]:
    counts = Counter[str]()
    for table in faces.results():
        counts.update(table["status"].to_pylist())
    return dict(counts.most_common())


def _crop_digests(faces: Ledger, names: Collection[str]) -> dict[str, str]:
    wanted = pa.array(names, pa.string())
    digests = dict[str, str]()
    for table in faces.results():
        own = table.filter(pc.is_in(table["image_id"], wanted))
        columns = (own["image_id"].to_pylist(), own["crop_sha256"].to_pylist())
        digests |= {name: digest for name, digest in zip(*columns, strict=True) if digest}
    return digests


def _prompts(report: Folder, findings: Findings) -> list[PromptPart]:
    parts = []
    for number, prompt in enumerate(findings.prompts[:PROMPTS_LIMIT], 1):
        plots = prompt_plots(findings, prompt)
        addresses = _write_plots(report, plots, f"prompt-{number:02d}-")
        parts.append(prompt_part(findings, prompt, addresses))
    return parts


def _run_plots(rows: Rows, evaluation: Evaluation) -> dict[str, Plot]:
    plots = {}
    if evaluation.statuses:
        plots["pairs"] = status_plot("Pairs of this run by status", evaluation.statuses)
    if evaluation.faces:
        plots["faces"] = status_plot("Faces of the workspace by status", evaluation.faces)
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


def _summary(run: RunTables, evaluation: Evaluation, notes: Sequence[str]) -> bytes:
    best = [
        evaluation.best_strength(group.method, group.target_prompt)
        for group in evaluation.by_prompt
    ]
    summary = {
        "format": 1,
        "run": dict(run.values),
        "notes": list(notes),
        "definitions": dict(evaluation.criteria.definitions()),
        "waiting": run.waiting,
        "best_strengths": [
            {"verdict": group.verdict} | asdict(group) for group in best if group is not None
        ],
    }
    text = json.dumps(summary | asdict(evaluation), indent=1, allow_nan=False)
    return text.encode()
