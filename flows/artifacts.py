"""What Prefect's pages show of a run: progress, counts, and where the report is."""

import time
from collections.abc import Mapping, Sequence
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.share import has_server

_SECONDS_BETWEEN_UPDATES = 2.0


class ProgressArtifact:
    """Show how far a stage is.

    Args:
        stage: Its name.
        total: Steps in all.
    """

    def __init__(self, stage: str, total: int) -> None:
        self._total, self._shown = total, time.monotonic()
        self._id = (
            create_progress_artifact(0.0, key=f"{stage}-progress", description=stage)
            if has_server()
            else None
        )

    def advance(self, done: int) -> None:
        """Say that `done` steps are done now."""
        now = time.monotonic()
        if done == self._total or now - self._shown > _SECONDS_BETWEEN_UPDATES:
            self._shown = now
            # Its type says Any or a coroutine, since Prefect has both in one.
            identity = self._id
            if isinstance(identity, UUID):
                update_progress_artifact(identity, 100 * done / max(self._total, 1))


def show_counts(stage: str, counts: Mapping[str, int]) -> None:
    """Show rows by status as a table."""
    if not has_server():
        return
    rows = [{"status": status, "rows": count} for status, count in counts.items()]
    create_table_artifact(rows, key=f"{stage}-counts", description=f"{stage}: rows by status")


def show_table(key: str, description: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Show rows with equal columns as a table."""
    if not has_server():
        return
    create_table_artifact([dict(row) for row in rows], key=key, description=description)


def show_report(page: str, counts: Mapping[str, int]) -> None:
    """Show where the report of a run is."""
    if not has_server():
        return
    lines = [f"- {count} {status}" for status, count in counts.items()]
    text = "\n".join(["# Report", "", f"`{page}`", "", *lines])
    create_markdown_artifact(text, key="report", description="Evaluation report")
