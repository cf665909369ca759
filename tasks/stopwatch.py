"""Where the time of a shard goes: seconds by phase, for commits, reports and metrics.

Phases that threads do at the same time add up to more than the time that passes.
"""

import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from prefect.context import FlowRunContext, TaskRunContext

from tasks.store.folders import sha256
from tasks.store.ledger import Ledger

LOADING, READING, EDITING, SCORING = "loading", "reading", "editing", "scoring"
ENCODING, WRITING, OTHER = "encoding", "writing", "other"
ORCHESTRATION = "orchestration"
PHASES = (LOADING, READING, EDITING, SCORING, ENCODING, WRITING, OTHER, ORCHESTRATION)


def describe_duration(seconds: float) -> str:
    """Write a duration in words: 1 h 20 min, 3 min 20 s, 4.1 s, 27 ms."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    if 0 < seconds < 0.1:
        return f"{1000 * seconds:.3g} ms"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


_LATEST: ContextVar["Stopwatch | None"] = ContextVar("stopwatch", default=None)


class Stopwatch:
    """Adds up seconds by phase; several threads may use it at once."""

    def __init__(self) -> None:
        self._seconds, self._lock = defaultdict[str, float](float), threading.Lock()
        self._began, self._date = time.monotonic(), datetime.now(UTC)
        _LATEST.set(self)

    @contextmanager
    def spend(self, phase: str) -> Iterator[None]:
        """Count the time of the block to a phase."""
        began = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[phase] += time.monotonic() - began

    def facts(self) -> dict[str, Any]:
        """Return what a commit keeps: seconds by phase, when it began, and on which lane.

        A lane is what does one shard after the other: a thread of a process, for one flow run.
        """
        total = time.monotonic() - self._began
        with self._lock:
            known = dict(self._seconds)
        seconds = known | {OTHER: max(0.0, total - sum(known.values()))}
        return {
            "spent": {phase: round(value, 4) for phase, value in seconds.items()},
            "began": self._date.isoformat(),
            "lane": _lane(),
        }


def forget_latest() -> None:
    """Let `latest_seconds` know nothing of what was before."""
    _LATEST.set(None)


def latest_seconds() -> dict[str, float]:
    """Return the seconds by phase of the stopwatch that this thread began last; empty without."""
    watch = _LATEST.get()
    seconds: dict[str, float] = watch.facts()["spent"] if watch else {}
    return seconds


def time_spent(ledger: Ledger) -> dict[str, Any]:
    """Return where the time of a run went, superseded commits included.

    Orchestration is what passed on a lane between the end of a shard and the beginning of the next.
    Shards that were stopped before their commit, and commits without times, are not known.

    Returns:
        `seconds` by phase, `shards` with times, and `lanes`.
    """
    seconds, spans = defaultdict[str, float](float), dict[str, list[tuple[datetime, datetime]]]()
    shards = 0
    for commit in ledger.commits():
        facts = commit.facts
        parts, lane = facts.get("spent"), facts.get("lane")
        if not isinstance(parts, Mapping):
            continue
        shards += 1
        for phase, value in parts.items():
            seconds[phase] += float(value)
        dates = [datetime.fromisoformat(str(facts[name])) for name in ("began", "made")]
        spans.setdefault(str(lane), []).append((dates[0], dates[1]))
    for lane_spans in spans.values():
        ordered = sorted(lane_spans)
        for (_, end), (begin, _) in pairwise(ordered):
            seconds[ORCHESTRATION] += max(0.0, (begin - end).total_seconds())
    return {
        "seconds": {name: round(seconds[name], 3) for name in PHASES if shards},
        "shards": shards,
        "lanes": len(spans),
    }


def _lane() -> str:
    """Eight digits that name this thread in this flow run."""
    task = TaskRunContext.get()
    flow = FlowRunContext.get()
    run = task.task_run.flow_run_id if task else flow.flow_run.id if flow and flow.flow_run else ""
    where = (socket.gethostname(), os.getpid(), threading.get_ident(), str(run))
    return sha256(repr(where).encode())[:8]
