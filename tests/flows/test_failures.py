"""A hopeless stage ends early, says why, and continues."""

import io
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console

from flows import progress, shards, store_check
from flows.failures import FailureBudget, StageError
from flows.guards import guarded_flow
from flows.interchange import import_latents
from flows.logs import leave_errors_to_command
from flows.shards import run_shards
from flows.store_check import check_store
from tasks.photos.listing_table import ListingError
from tasks.store.faults import StoreError
from tasks.store.guarantees import Guarantee
from tasks.store.redaction import redact


@pytest.fixture
def begun(monkeypatch) -> list[int]:
    monkeypatch.setattr(shards, "_RETRIES", 0)
    monkeypatch.setattr(shards, "in_own_order", list)
    return []


@pytest.fixture
def shown_by_prefect(monkeypatch) -> io.StringIO:
    """What Prefect logs to a terminal."""
    (handler,) = [h for h in logging.root.handlers if isinstance(h, PrefectConsoleHandler)]
    shown = io.StringIO()
    monkeypatch.setattr(handler, "console", Console(file=shown, width=200))
    monkeypatch.setattr(handler, "filters", [])
    return shown


def attempt(work, count: int, budget: FailureBudget | None = None, workers: int = 1) -> str:
    """Run shards that fail, and return what is said."""

    @flow(name="stage")
    def stage() -> None:
        options = {"budget": budget} if budget else {}
        run_shards("stage", work, range(count), workers, {}, **options)

    with pytest.raises(StageError) as caught:
        stage()
    return str(caught.value)


def test_failures_in_a_row_end_a_stage(begun):
    def work(shard: int) -> dict[str, int]:
        begun.append(shard)
        if shard > 3:
            raise ValueError("the crop is damaged")
        return {"ok": 1}

    told = attempt(work, 40)
    # The one that was submitted already is still done.
    assert begun == [*range(8)]
    assert "stage: 4 of 40 shards failed, 4 are done" in told
    assert "32 were not begun, since 3 failed in a row" in told
    assert "shard 4, 5, 6, 7: ValueError: the crop is damaged" in told
    assert "give the same command to continue" in told


def test_failed_shards_are_told_beside_what_is_done(begun, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", -1.0)

    def work(shard: int) -> dict[str, int]:
        if shard in (1, 2):
            raise ValueError("the crop is damaged")
        return {"ok": 1}

    attempt(work, 40, FailureBudget(in_a_row=5, share=0.5))
    lines = capsys.readouterr().err.splitlines()
    ends = [line.partition("  ")[2] for line in lines if line.startswith("stage: ")]
    told = ["1 ok", "1 ok, 1 shard failed", "1 ok, 2 shards failed", "2 ok, 2 shards failed"]
    assert ends[:4] == told


def test_a_share_of_failures_ends_a_stage_and_fewer_do_not(begun):
    def work(shard: int) -> dict[str, int]:
        begun.append(shard)
        if shard % 2:
            raise ValueError(f"shard {shard}")
        return {"ok": 1}

    told = attempt(work, 30, FailureBudget(in_a_row=2, share=0.2))
    assert "since more than 20% failed" in told
    assert len(begun) < 20
    assert "... and 4 other reasons" in told
    begun.clear()
    assert "not begun" not in attempt(work, 30, FailureBudget(in_a_row=2, share=0.9))
    assert begun == [*range(30)]


def test_what_would_fail_everywhere_ends_a_stage_without_another_attempt(monkeypatch):
    monkeypatch.setattr(shards, "in_own_order", list)
    begun = []

    def work(shard: int) -> dict[str, int]:
        begun.append(shard)
        raise StoreError("s3://faces: the token has expired", lasting=True, everywhere=True)

    told = attempt(work, 30)
    # No attempt but the first, and no shards but those that were submitted together.
    assert begun == [0, 1]
    assert "28 were not begun, since the others would fail in the same way" in told


def test_a_silent_store_ends_a_stage_without_further_attempts_at_shards_in_hand(monkeypatch):
    monkeypatch.setattr(shards, "exponential_backoff", lambda backoff_factor: 0)
    monkeypatch.setattr(shards, "in_own_order", list)
    begun = []

    def work(shard: int) -> dict[str, int]:
        begun.append(shard)
        # The other one is in hand while the stage learns of this one.
        time.sleep(shard / 2)
        raise StoreError("s3://faces: timeout", everywhere=True)

    attempt(work, 30)
    assert begun == [0, 0, 0, 1]


def test_a_fault_that_may_pass_gets_another_attempt(monkeypatch, capsys):
    monkeypatch.setattr(shards, "exponential_backoff", lambda backoff_factor: 0)
    attempts = []

    @flow(name="stage")
    def stage() -> dict[str, int]:
        return run_shards("stage", work, [0], 1, {})

    def work(shard: int) -> dict[str, int]:
        attempts.append(shard)
        if len(attempts) < 3:
            raise StoreError("s3://faces: throttled", remedy="; give the same command again")
        return {"ok": 1}

    assert stage() == {"ok": 1}
    assert len(attempts) == 3
    told = [line for line in capsys.readouterr().err.splitlines() if "tried again" in line]
    assert told == [
        f"work shard-0 failed in attempt {attempt} of 3, which is tried again: "
        "s3://faces: throttled"
        for attempt in (1, 2)
    ]


def test_neither_people_nor_prefect_see_credentials(begun, monkeypatch, caplog):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")

    def reveal(shard: int) -> dict[str, int]:
        raise ValueError("Invalid header value b'wJalrXUtnFEMI'")

    told = attempt(reveal, 1)
    assert "Invalid header value b'***'" in told
    assert "wJalrXUtnFEMI" not in caplog.text
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(limit=200)
        tasks = client._client.post("/task_runs/filter", json={}).json()
    stored = repr(tasks) + repr(runs)
    assert "Invalid header value" in stored
    assert "wJalrXUtnFEMI" not in stored
    assert redact(told) == told


def test_nor_of_what_a_flow_refuses(begun, caplog):
    @guarded_flow("refusing")
    def refuse(kind: str) -> None:
        text = "got https://host/a.jpg?X-Amz-Signature=wJalrXUtnFEMI was signed"
        raise ListingError(text) if kind == "input" else KeyError(text)

    with pytest.raises(ValueError, match=r"Signature=\*\*\* was signed"):
        refuse("input")
    with pytest.raises(StoreError, match=r"KeyError: .*Signature=\*\*\* was signed"):
        refuse("other")
    with get_client(sync_client=True) as client:
        stored = repr([run.state for run in client.read_flow_runs(limit=200)])
    assert "was signed" in stored
    assert "wJalrXUtnFEMI" not in caplog.text + stored


# With how often a flow is tried where one more attempt is allowed.
ERRORS = [
    (ListingError("photographs: got none"), 1),
    (PermissionError("the folder cannot be written"), 1),
    (StoreError("s3://faces: the token has expired", lasting=True), 1),
    (StoreError("s3://faces: throttled"), 2),
]


@pytest.mark.parametrize(("error", "attempts"), ERRORS)
def test_a_flow_that_would_fail_again_is_not_tried_again(shown_by_prefect, error, attempts):
    begun = []

    @guarded_flow("failing")
    def fail() -> None:
        begun.append(1)
        raise error

    with pytest.raises(type(error)):
        fail.with_options(retries=1)()
    assert len(begun) == attempts
    # What users correct needs no trace.
    assert ("Traceback" in shown_by_prefect.getvalue()) == (attempts == 2)
    assert str(error) in shown_by_prefect.getvalue()


@pytest.mark.parametrize(("error", "attempts"), ERRORS)
def test_nor_is_one_all_of_whose_lost_shards_would_fail_again(begun, error, attempts):
    tried = []

    def fail_in_part(shard: int) -> dict[str, int]:
        if shard == 1:
            raise error
        return {"ok": 1}

    @guarded_flow("failing-in-part")
    def fail() -> None:
        tried.append(1)
        run_shards("stage", fail_in_part, range(3), 1, {})

    with pytest.raises(StageError):
        fail.with_options(retries=1)()
    assert len(tried) == attempts


def test_every_flow_keeps_credentials_to_itself():
    sources = [path.read_text() for path in Path(shards.__file__).parent.glob("*.py")]
    assert sum(text.count("\n@guarded_flow(") for text in sources) >= 11
    assert not any("\n@flow" in text for text in sources)


def test_what_prefect_logs_of_a_failed_task_drives_no_terminal(
    begun, monkeypatch, shown_by_prefect
):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")

    def fail(shard: int) -> dict[str, int]:
        try:
            raise KeyError("wJalrXUtnFEMI")
        except KeyError as error:
            raise ValueError("bad prompt: \x1b[2J\u202e\n12:00:00 | INFO | all is well") from error

    attempt(fail, 1)
    logging.getLogger("library").error("got %s", "\x1b[2J\nwJalrXUtnFEMI")
    text = shown_by_prefect.getvalue()
    assert "Traceback" in text
    assert "wJalrXUtnFEMI" not in text
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert r"bad prompt: \x1b[2J\u202e\n12:00:00 | INFO | all is well" in text
    assert r"got \x1b[2J\n***" in text


def test_a_command_shows_why_shards_failed_and_no_traceback(begun, shown_by_prefect):
    def fail(shard: int) -> dict[str, int]:
        raise ValueError("a chunk is damaged")

    leave_errors_to_command()
    assert "shard 0: ValueError: a chunk is damaged" in attempt(fail, 1)
    assert "Finished in state Failed" in shown_by_prefect.getvalue()
    assert "Traceback" not in shown_by_prefect.getvalue()
    logging.getLogger("EventsWorker").warning("Still processing items: 2 items remaining...")
    logging.getLogger("EventsWorker").warning("the server is away")
    assert "Still processing" not in shown_by_prefect.getvalue()
    assert "the server is away" in shown_by_prefect.getvalue()


ENDING = """
import builtins, logging
from flows.environment import set_defaults
set_defaults()
from flows.logs import make_logs_plain
make_logs_plain()
class Session:
    def __del__(self, error=logging.getLogger("asyncio").error):
        error("Unclosed client session")
builtins.session = Session()
"""


def test_what_is_open_while_python_ends_gives_no_traceback():
    done = subprocess.run(
        [sys.executable, "-c", ENDING], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_a_full_disk_ends_a_stage_which_then_continues(tmp_path, models, monkeypatch):
    workspace, latents = str(tmp_path / "ws"), str(tmp_path / "latents.pt")
    torch.save(torch.randn(65, 8, 28), latents)
    sync, refused = os.fsync, []

    def full(handle: int) -> None:
        if "/results/" in str(Path(f"/proc/self/fd/{handle}").readlink()):
            refused.append(handle)
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    options = {"models": models, "device": "cpu", "shard_size": 64, "batch_size": 64}
    with pytest.raises(StageError, match=r"store is full .* make room, then give the same command"):
        import_latents(workspace, latents, **options)
    assert len(refused) == 2
    monkeypatch.undo()
    assert import_latents(workspace, latents, **options).counts == {"ok": 65}


def test_what_a_store_guarantees_is_said_where_it_goes_without_saying_only_if_it_lacks(
    tmp_path, monkeypatch, capsys
):
    check_store("memory://guarantees")
    assert "creates are exclusive; several writers are safe" in capsys.readouterr().err
    check_store(str(tmp_path / "plain"))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(store_check, "probe_store", lambda url: Guarantee(url, False, True))
    check_store(str(tmp_path / "careless"))
    assert "let only one process at a time write there" in " ".join(capsys.readouterr().err.split())
