"""Metrics for dashboards: one line of JSON a shard, in the file that STYLECLIP_METRICS names.

Whoever ships log files (an OpenTelemetry collector, Vector, Promtail) can ship these. Several
processes may write to one file.
"""

import json
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache, wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec

from flows.environment import metrics_file
from flows.progress import say
from tasks.models import device_memory, open_models
from tasks.row_logs import run_logger
from tasks.runs import read_settings
from tasks.stopwatch import forget_latest, latest_seconds
from tasks.store.folders import Folder
from tasks.store.redaction import redact

P = ParamSpec("P")


def measured(work: Callable[P, dict[str, int]], stage: str) -> Callable[P, dict[str, int]]:
    """Log and measure what one shard of a stage does."""

    @wraps(work)
    def call(*values: P.args, **named: P.kwargs) -> dict[str, int]:
        arguments, began = bound_arguments(work, *values, **named), time.monotonic()
        place, shard = place_of(arguments), arguments.get("shard")
        facts: dict[str, Any] = {"stage": stage, "run": place, "shard": shard}
        logger = run_logger()
        logger.info("stage=%s run=%s shard=%s: begins", stage, place, shard)
        forget_latest()
        try:
            counts = work(*values, **named)
        except Exception as error:
            seconds = time.monotonic() - began
            facts |= {"seconds": round(seconds, 3), "error": type(error).__name__}
            write_metrics("shard_failed", **facts)
            raise
        seconds = time.monotonic() - began
        rows = sum(counts.values())
        logger.info("stage=%s run=%s shard=%s: %s in %.1f s", stage, place, shard, counts, seconds)
        if metrics_file():
            facts |= {"seconds": round(seconds, 3), "rows": rows, "statuses": counts}
            facts |= {"rows_per_second": round(rows / seconds, 3) if seconds else None}
            facts |= {"phases": latest_seconds(), "gpu_bytes": _gpu_memory(arguments)}
            write_metrics("shard", **facts)
        return counts

    return call


def bound_arguments(
    work: Callable[P, object], *values: P.args, **named: P.kwargs
) -> dict[str, Any]:
    """Return arguments by name; Prefect hands over those of its tasks by place."""
    return signature(work).bind(*values, **named).arguments


def place_of(arguments: Mapping[str, Any]) -> str:
    """Return the URL of the run or the workspace that a shard is of, without credentials."""
    workspace = arguments.get("workspace")
    # A workspace as people gave it may be relative; a run comes from a flow, with its URL.
    return redact(str(arguments.get("run") or (Folder(workspace).url if workspace else "")))


def write_metrics(event: str, **values: Any) -> None:
    """Append a line to the file of metrics, if there is one.

    Args:
        event: What happened.
        values: Plain values.
    """
    path = metrics_file()
    if not path:
        return
    # On Linux in KiB, on a Mac in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    line = {
        "time": datetime.now(UTC).isoformat(),
        "event": event,
        "host": socket.gethostname(),
        "process": os.getpid(),
        "peak_memory_bytes": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    try:
        # Opened for appending, and written at once: lines of several processes do not mix.
        with Path(path).open("ab", buffering=0) as file:
            file.write(json.dumps(line | values).encode() + b"\n")
    except OSError as error:
        _tell_once(f"metrics: {path}: {error.strerror}; work goes on without them")


@cache
def _tell_once(message: str) -> None:
    say(message)


def _gpu_memory(arguments: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of the accelerator that a shard was done on; empty where it was none."""
    device, models = arguments.get("device"), arguments.get("models")
    if device is None:
        return {}
    if models is None:
        models = read_settings(Folder(arguments["run"])).models
    return device_memory(open_models(models, device).device)
