"""A run -> an evaluation report."""

import time

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.artifacts import show_report
from flows.progress import console, printable
from flows.summary import Summary
from tasks.report import write_report
from tasks.run_tables import find_other_run, find_run


@flow(name="evaluate-run")
def evaluate_run(
    workspace: str,
    others: list[str] | None = None,
    *,
    run: str = "run",
    models: str = "",
    device: str = "auto",
) -> Summary:
    """Judge a run: report/index.html, summary.json and metrics.parquet in its folder.

    styleclip evaluate ws --run smiles

    styleclip evaluate ws/runs/smiles ws/runs/earlier

    Further runs are shown beside it, with the differences of the pairs that both have. What changed
    by more than may be is told as drift.

    Args:
        workspace: The folder of a run, or folder or URL that holds all data.
        others: Runs to compare it with: names in the same workspace, folders, other workspaces.
        run: Name of the run in a workspace, or its URL.
        models: Bundle whose networks look at saved pictures again, for entanglement and a second
            opinion; that of the run where empty. Its role judge is a CLIP that did not steer the
            edits, alexnet and lpips are those of LPIPS.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    began = time.monotonic()
    place = find_run(workspace, run)
    compared = [find_other_run(place, other, run) for other in others or []]
    report = write_report(place, others=compared, models=models, device=device)
    counts = {"ok": report.pairs - report.failed, "not ok": report.failed}
    counts |= {"waiting": report.waiting, "drifted": len(report.drift)}
    show_report(report.page, counts)
    create_table_artifact(
        [*report.verdicts], key="verdicts", description="Verdict of every prompt and method"
    )
    for sentence in report.drift:
        console.print(printable(f"drift: {sentence}"), markup=False)
    if report.drift:
        drift = [{"drift": sentence} for sentence in report.drift]
        create_table_artifact(drift, key="drift", description="What changed since other runs")
    facts = {"drift": list(report.drift)} if others else {}
    return Summary("evaluate", report.page, counts, time.monotonic() - began, facts)
