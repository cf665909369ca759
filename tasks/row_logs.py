"""Logs that say which run, shard and row they are about; a server shows them with the task run."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from tasks.store.redaction import redact

# More would drown the others; all are rows of the results.
_TOLD = 5


def run_logger() -> "logging.Logger | logging.LoggerAdapter[Any]":
    """Return the logger of the Prefect run at hand, or one of our own where there is none."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("styleclip")


def log_failures(place: str, shard: int, key: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Log the rows of a shard that are not ok, the first few of them.

    Args:
        place: URL of the run or the workspace.
        shard: Its number.
        key: Column that names a row.
        rows: All of its rows.
    """
    logger, count = run_logger(), 0
    for row in rows:
        if row["status"] != "ok":
            count += 1
            if count <= _TOLD:
                # With repr, no text of a stranger drives a terminal.
                said = repr(redact(str(row["error"] or "")))
                image, status = row.get("image_id"), row["status"]
                where = (redact(place), shard, redact(str(row[key])), image)
                logger.info("run=%s shard=%d row=%s image=%s: %s: %s", *where, status, said)
    if count > _TOLD:
        logger.info("run=%s shard=%d: %d more rows are not ok", redact(place), shard, count - _TOLD)
