"""Where the time went: by stage, between shards, and by lane."""

import json
import threading
import time

import pyarrow as pa
import pytest

from tasks.report.run_report import write_report
from tasks.runs import run_ledger
from tasks.stopwatch import (
    PHASES,
    Stopwatch,
    describe_duration,
    forget_latest,
    latest_seconds,
    time_spent,
)
from tasks.store.folders import Folder, read_url
from tasks.store.ledger import Ledger

SCHEMA = pa.schema([("name", pa.string())])


def test_threads_share_a_stopwatch_and_the_rest_is_other():
    watch = Stopwatch()

    def write() -> None:
        with watch.spend("writing"):
            time.sleep(0.05)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(0.02)
    with pytest.raises(ValueError, match="full"), watch.spend("writing"):
        raise ValueError("full")
    seconds = watch.facts()["spent"]
    assert seconds["writing"] >= 0.2
    assert latest_seconds()["writing"] == seconds["writing"]
    # Four threads at once take longer than the wall.
    assert seconds["other"] == 0
    forget_latest()
    assert latest_seconds() == {}


def commit(ledger: Ledger, shard: int, lane: str, began: str, made: str, **seconds: float) -> None:
    facts = {"lane": lane, "spent": seconds, "began": f"2026-11-25T{began}+00:00"}
    before = ledger.read_commit(shard) if ledger.is_committed(shard) else None
    rows = pa.table({"name": ["a"]}, SCHEMA)
    ledger.commit(shard, rows, facts | {"made": f"2026-11-25T{made}+00:00"}, before)


def test_orchestration_is_what_passes_between_the_shards_of_a_lane(tmp_path):
    ledger = Ledger(Folder(str(tmp_path)), SCHEMA)
    assert time_spent(ledger) == {"seconds": {}, "shards": 0, "lanes": 0}
    ledger.commit(9, pa.table({"name": ["old"]}, SCHEMA))
    commit(ledger, 0, "one", "10:00:00", "10:00:10", editing=8.0, other=2.0)
    commit(ledger, 2, "one", "10:00:11.5", "10:00:20", editing=8.0, other=0.5)
    commit(ledger, 1, "two", "10:00:00", "10:00:30", editing=29.0, writing=1.0)
    # A day later in another flow run, which superseded a commit: no gap to it.
    commit(ledger, 1, "three", "23:00:00", "23:00:05", editing=5.0)
    spent = time_spent(ledger)
    assert (spent["shards"], spent["lanes"]) == (4, 3)
    assert spent["seconds"] == dict.fromkeys(PHASES, 0.0) | {
        "editing": 50.0,
        "writing": 1.0,
        "other": 2.5,
        "orchestration": 1.5,
    }


def test_the_summary_of_a_report_says_where_the_time_went(finished):
    summary = json.loads(read_url(write_report(finished.run("single").url).summary))
    spent = summary["time"]
    assert spent["shards"] == len(run_ledger(finished.run("single")).committed())
    for stage in ("reading", "editing", "scoring", "encoding", "writing"):
        assert spent["seconds"][stage] > 0


def test_a_duration_is_written_in_two_units_at_most():
    told = [describe_duration(seconds) for seconds in (0.26, 59.4, 59.6, 200, 3599.7, 90_000)]
    assert told == ["0.3 s", "59.4 s", "1 min 0 s", "3 min 20 s", "1 h 0 min", "25 h 0 min"]
