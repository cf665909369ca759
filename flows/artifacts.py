"""What Prefect's pages show of a run: progress, counts, and where the report is."""

import base64
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from typing import ParamSpec
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.environment import samples_shown
from flows.steps import has_server
from tasks.report.samples import glance_at

_SECONDS_BETWEEN_UPDATES = 2.0

P = ParamSpec("P")


def _where_reachable(show: Callable[P, None]) -> Callable[P, None]:
    """Show something on a server, if there is one; one that does not answer ends no work."""

    @wraps(show)
    def call(*values: P.args, **named: P.kwargs) -> None:
        with suppress(httpx.HTTPError):
            if has_server():
                show(*values, **named)

    return call


class ProgressArtifact:
    """Show how far a stage is.

    Args:
        stage: Its name.
        total: Steps in all.
    """

    def __init__(self, stage: str, total: int) -> None:
        self._total, self._shown, self._stage = total, time.monotonic(), stage
        self._id: object = None
        self._begin()

    @_where_reachable
    def _begin(self) -> None:
        key = f"{self._stage}-progress"
        self._id = create_progress_artifact(0.0, key=key, description=self._stage)

    @_where_reachable
    def advance(self, done: int) -> None:
        """Say that `done` steps are done now."""
        now = time.monotonic()
        if done == self._total or now - self._shown > _SECONDS_BETWEEN_UPDATES:
            self._shown = now
            # Its type says Any or a coroutine, since Prefect has both in one.
            identity = self._id
            if isinstance(identity, UUID):
                update_progress_artifact(identity, 100 * done / max(self._total, 1))


@_where_reachable
def show_counts(stage: str, counts: Mapping[str, int]) -> None:
    """Show rows by status as a table."""
    rows = [{"status": status, "rows": count} for status, count in counts.items()]
    create_table_artifact(rows, key=f"{stage}-counts", description=f"{stage}: rows by status")


@_where_reachable
def show_table(key: str, description: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Show rows with equal columns as a table."""
    create_table_artifact([dict(row) for row in rows], key=key, description=description)


@_where_reachable
def show_run(run: str) -> None:
    """Show a table of a run's results, and sample pictures of it."""
    glance = glance_at(run, samples_shown())
    if not glance.results:
        return
    part = f"{glance.shards} of {glance.of} shards"
    rows = [{name: _cell(value) for name, value in row.items()} for row in glance.results]
    show_table("results", f"{run}: mean scores by prompt, from {part}", rows)
    if not glance.samples:
        return
    lines = ["| prompt | before | after | scores |", "|---|---|---|---|"]
    for sample in glance.samples:
        row = sample.row
        names = ("directional_edit", "identity_edit")
        scores = ", ".join(f"{name} {row[name]:.2f}" for name in names if row[name] == row[name])
        asked = f"{_plain(row['target_prompt'])} ({row['method']}, alpha {row['alpha']:g})"
        before, after = _picture(sample.before, "before"), _picture(sample.after, "after")
        lines.append(f"| {asked} | {before} | {after} | {scores} |")
    text = "\n".join([f"# Samples of {_plain(run)}", "", *lines])
    create_markdown_artifact(text, key="samples", description=f"{run}: edits drawn evenly")


def _cell(value: object) -> object:
    return "" if value is None else value


def _plain(text: object) -> str:
    """A text that markdown and HTML take as it is."""
    return re.sub(r"([^\w\s]|_)", r"\\\1", " ".join(str(text).split()))


def _picture(content: bytes, alt: str) -> str:
    if not content:
        return "not there"
    return f"![{alt}](data:image/webp;base64,{base64.b64encode(content).decode()})"


@_where_reachable
def show_report(page: str, counts: Mapping[str, int]) -> None:
    """Show where the report of a run is."""
    lines = [f"- {count} {status}" for status, count in counts.items()]
    text = "\n".join(["# Report", "", f"`{page}`", "", *lines])
    create_markdown_artifact(text, key="report", description="Evaluation report")
