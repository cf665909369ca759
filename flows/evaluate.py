"""A run -> an evaluation report."""

import time
from collections import Counter

from flows.artifacts import show_report, show_table
from flows.guards import guarded_flow
from flows.options import MachineStr
from flows.progress import progress_bars, say
from flows.store_check import check_store
from flows.summary import Summary
from tasks.report.run_report import write_report
from tasks.run_tables import find_judged_run, find_other_run
from tasks.store.folders import Folder


@guarded_flow("evaluate-run")
def evaluate_run(
    workspace: str,
    others: list[str] | None = None,
    *,
    run: str = "run",
    models: str = "",
    device: MachineStr = "auto",
) -> Summary:
    """Judge a run: report/index.html, summary.json and metrics.parquet in its folder.

    Further runs are shown beside it, with the differences of the pairs that both have. Changes
    beyond the allowed size are told as drift.

    Args:
        workspace: Folder or URL that holds all data, or the folder of a run.
        others: Runs to compare it with: names in the same workspace, folders, other workspaces.
        run: Name of the run in a workspace, or its URL.
        models: Bundle whose networks look at saved pictures again, for entanglement and a second
            opinion; that of the run where empty. Its role judge is a CLIP that did not steer the
            edits, alexnet and lpips are those of LPIPS.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    began = time.monotonic()
    place = find_judged_run(workspace, run, others or ())
    check_store(workspace if place.startswith(f"{Folder(workspace).url}/") else place)
    compared = [find_other_run(place, other, Folder(place).name) for other in others or []]
    with progress_bars() as show:
        report = write_report(
            place, on_progress=show, others=compared, models=models, device=device
        )
    for other, apart in report.unpaired.items():
        say(f"evaluate: no pair of {other} is in this run: other {', '.join(apart)}")
    for note in report.missing:
        say(f"evaluate: {note}")
    counts = {"ok": report.pairs - report.failed, "not ok": report.failed}
    counts |= {"waiting": report.waiting, "drifted": report.drifted}
    show_report(report.page, counts)
    show_table("verdicts", "Verdict of every prompt and method", report.verdicts)
    for sentence in report.drift:
        say(f"drift: {sentence}")
    if report.drift:
        drift = [{"drift": sentence} for sentence in report.drift]
        show_table("drift", "What changed since other runs", drift)
    verdicts = Counter(row["verdict"] for row in report.verdicts)
    facts: dict[str, object] = {"verdicts": dict(verdicts)}
    facts |= {"drift": list(report.drift)} if others else {}
    return Summary("evaluate", report.page, counts, time.monotonic() - began, facts)
