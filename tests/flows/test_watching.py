"""What people see of a run, and how it ends when they cancel it."""

import json
import logging
import urllib.request
from functools import wraps

import pytest
import torch
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL

import flows.cancelling
import flows.edit
from flows.artifacts import _plain
from flows.cli import app
from flows.environment import samples_shown
from flows.interchange import import_latents
from flows.metrics import measured, place_of, write_metrics
from tasks.edits import edit_pairs_shard
from tasks.row_logs import log_failures
from tasks.runs import run_folder, run_ledger
from tasks.store.folders import Folder

OPTIONS = ["--device", "cpu", "--num-images", "1", "--num-statistics", "50", "--mode", "fast"]


@pytest.fixture
def command(tmp_path, models) -> list[str]:
    """A command that makes six edits, of which one has no latent."""
    torch.save(torch.randn(5, 8, 28), tmp_path / "face.pt")
    import_latents(str(tmp_path), str(tmp_path / "face.pt"), models=models, device="cpu")
    images = [*(f"face-{number:05d}" for number in range(5)), "nobody"]
    lines = [f"{image},a *sad* <b>face</b>,10" for image in images]
    text = "\n".join(["image_id,target_prompt,num_channels", *lines])
    (tmp_path / "edits.csv").write_text(text)
    words = ["edit", str(tmp_path), str(tmp_path / "edits.csv"), "--models", models]
    return [*words, *OPTIONS]


def ask(path: str, **body: object) -> object:
    """Ask the server, as its page does."""
    url, kind = f"{PREFECT_API_URL.value()}/{path}", {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), kind)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def artifact(key: str) -> str:
    (found,) = ask("artifacts/latest/filter", artifacts={"key": {"any_": [key]}})
    return found["data"]


def test_a_cancelled_run_ends_after_the_shard_in_hand_and_continues(
    command, tmp_path, monkeypatch, capfd
):
    runs = list[str]()

    @wraps(edit_pairs_shard)
    def cancelled_in_the_second_shard(*values, **named) -> dict[str, int]:
        counts = edit_pairs_shard(*values, **named)
        runs.append(flow_run.id)
        if len(runs) == 2:
            answer = ask(f"flow_runs/{flow_run.id}/set_state", state={"type": "CANCELLING"})
            assert answer["status"] == "ACCEPT"
        return counts

    monkeypatch.setattr(flows.cancelling, "_SECONDS_BETWEEN_QUESTIONS", 0.0)
    monkeypatch.setattr(flows.edit, "edit_pairs_shard", cancelled_in_the_second_shard)
    assert app.meta([*command, "--shard-size", "1"]) == 130
    told = " ".join(capfd.readouterr().err.split())
    assert "edit: cancelled when 2 of 6 shards were done; give the same command" in told
    (seen,) = ask("flow_runs/filter", flow_runs={"id": {"any_": [runs[0]]}})
    assert seen["state_name"] == "Cancelled"
    ledger = run_ledger(run_folder(str(tmp_path), "run"))
    done = ledger.committed()
    # The one after may be in hand when the answer comes.
    assert len(done) == len(runs) in (2, 3)
    parts = {part.name for shard in done for part in ledger.read_commit(shard).parts}
    assert {*(Folder(str(tmp_path)) / "runs/run/results").names()} == parts
    before = [ledger.read_commit(shard) for shard in done]
    monkeypatch.undo()
    assert app.meta([*command, "--shard-size", "1"]) == 0
    assert ledger.committed() == [0, 1, 2, 3, 4, 5]
    assert [ledger.read_commit(shard) for shard in done] == before


def test_metrics_are_lines_of_json_and_pages_show_table_and_pictures(
    command, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("STYLECLIP_METRICS", "")
    path = tmp_path / "metrics.jsonl"
    assert app.meta(["--metrics", str(path), *command, "--shard-size", "4"]) == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    shards = [line for line in lines if (line["event"], line["stage"]) == ("shard", "edit")]
    told = {line["shard"]: (line["event"], line["statuses"]) for line in shards}
    assert told == {0: ("shard", {"ok": 4}), 1: ("shard", {"ok": 1, "no_latent": 1})}
    for line in shards:
        assert line["rows_per_second"] == pytest.approx(line["rows"] / line["seconds"], rel=0.1)
        phases = line["phases"]
        assert {"reading", "editing", "scoring", "encoding", "writing"} <= {*phases}
        assert min(phases.values()) >= 0
        # Threads encode and write at the same time, so these two may add up to more.
        alone = sum(phases[name] for name in phases if name not in ("encoding", "writing"))
        assert 0 < alone <= line["seconds"] + 0.01
        assert line["gpu_bytes"] == {}
        assert line["peak_memory_bytes"] > 1e7
    (stage,) = [line for line in lines if line["event"] == "stage" and line["stage"] == "edit"]
    assert stage["statuses"] == {"ok": 5, "no_latent": 1}
    assert (stage["shards"], stage["shards_failed"], stage["retried_requests"]) == (2, 0, {})
    results = json.loads(artifact("results"))
    assert [(row["rows"], row["ok"]) for row in results] == [(6, 5)]
    # Three at most of each of two shards, of which one has a single edit.
    page = artifact("samples")
    assert page.count("![before](data:image/webp;base64,") == 4
    assert page.count("![after](data:image/webp;base64,") == 4
    assert r"a \*sad\* \<b\>face\<\/b\>" in page


def test_a_failed_shard_is_a_metric_and_its_error_is_raised(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLECLIP_METRICS", str(tmp_path / "m.jsonl"))

    def align_photos_shard(workspace: str, shard: int) -> dict[str, int]:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        measured(align_photos_shard, "align")(workspace="s3://faces/ws", shard=3)
    (line,) = map(json.loads, (tmp_path / "m.jsonl").read_text().splitlines())
    wanted = {"event": "shard_failed", "stage": "align", "shard": 3, "error": "OSError"}
    assert line | wanted == line


def test_metrics_name_the_whole_address_of_a_workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLECLIP_METRICS", str(tmp_path / "m.jsonl"))
    monkeypatch.chdir(tmp_path)

    def align_photos_shard(workspace: str, shard: int) -> dict[str, int]:
        return {"ok": 1}

    measured(align_photos_shard, "align")(workspace="ws", shard=3)
    assert place_of({"workspace": "ws"}) == str(tmp_path / "ws")
    (line,) = map(json.loads, (tmp_path / "m.jsonl").read_text().splitlines())
    assert line["run"] == str(tmp_path / "ws")


def test_logs_name_run_shard_and_row_and_no_secrets(caplog):
    rows = [{"pair_id": f"p{n}", "image_id": "anna", "status": "failed"} for n in range(7)]
    rows[0] |= {"status": "ok", "error": None}
    for row in rows[1:]:
        row["error"] = "https://host/a.jpg?X-Amz-Signature=hunter2 \x1b[2J"
    with caplog.at_level(logging.INFO, "styleclip"):
        log_failures("s3://faces/ws/runs/r", 4, "pair_id", rows)
    assert len(caplog.messages) == 6
    assert caplog.messages[0].startswith("run=s3://faces/ws/runs/r shard=4 row=p1 image=anna: fail")
    assert "1 more rows are not ok" in caplog.messages[-1]
    assert not any(secret in caplog.text for secret in ("hunter2", "\x1b"))


def test_a_prompt_is_no_markdown():
    assert _plain("a | b\n<img> _x_ [y](z)") == r"a \| b \<img\> \_x\_ \[y\]\(z\)"


def test_metrics_that_cannot_be_written_stop_no_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STYLECLIP_METRICS", str(tmp_path))
    write_metrics("shard", shard=1)
    write_metrics("shard", shard=2)
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("Is a directory; work goes on without them") == 1


@pytest.mark.parametrize("said", ["none", "-1"])
def test_a_number_of_samples_that_is_none_is_told(said, monkeypatch):
    monkeypatch.setenv("STYLECLIP_SAMPLES", said)
    with pytest.raises(ValueError, match="STYLECLIP_SAMPLES: got .* expected a number"):
        samples_shown()
