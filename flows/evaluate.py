"""A run -> an evaluation report."""

import time

from prefect import flow

from flows.artifacts import show_report
from flows.summary import Summary
from tasks.report import write_report
from tasks.runs import run_folder


@flow(name="evaluate-run")
def evaluate_run(workspace: str, run: str = "run") -> Summary:
    """Judge a run: report/index.html, summary.json and metrics.parquet in its folder.

    Args:
        workspace: Folder or URL that holds all data.
        run: Name of the run, or its URL.
    """
    began = time.monotonic()
    report = write_report(run_folder(workspace, run).url)
    scored = report.pairs - report.failed
    counts = {"ok": scored, "not ok": report.failed, "waiting": report.waiting}
    show_report(report.page, counts)
    return Summary("evaluate", report.page, counts, time.monotonic() - began)
