"""Workers of an array of jobs: each does its share, none needs a server."""

import json
from collections.abc import Iterator

import pyarrow as pa
import pytest
import torch
from PIL import Image
from prefect.settings import PREFECT_API_URL, temporary_settings
from tenacity import wait_none

from flows import engines
from flows.cli import app
from flows.engines import LoneCrew
from flows.interchange import import_latents
from flows.shards import shard_task
from flows.share import Share, WorkerError, read_share
from manifests.building import instructions
from tasks.directions import DirectionStore
from tasks.edits import Batch, Edited, Editor
from tasks.manifest_files import build_manifest
from tasks.runs import run_folder, run_ledger
from tasks.store.faults import StoreError
from tasks.store.folders import Folder

FAST = ["--num-images", "1", "--num-statistics", "50", "--mode", "fast", "--device", "cpu"]


@pytest.fixture
def no_server():
    """Nobody answers where the server should be."""
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        yield


def call(capsys, *words: str) -> dict:
    assert app.meta(["--json", *words]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_a_share_is_every_nth_shard():
    shares = [read_share(f"{index}/3") for index in range(3)]
    assert [share.of(range(8)) for share in shares] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert read_share("") == Share()
    assert read_share("").of(range(3)) == [0, 1, 2]


@pytest.mark.parametrize("worker", ["3/3", "8", "-1/3", "0/0", "1/3 ", "all"])
def test_a_worker_that_is_none_is_refused(worker):
    with pytest.raises(WorkerError, match="expected i/n with i from 0 to n - 1"):
        read_share(worker)


def test_workers_without_a_server_do_what_one_process_does(
    tmp_path, models, capsys, request, monkeypatch
):
    root, manifest = str(tmp_path / "ws"), str(tmp_path / "edits.parquet")
    torch.save(torch.randn(5, 8, 28), tmp_path / "w.pt")
    import_latents(root, str(tmp_path / "w.pt"), models=models, device="cpu")
    prompts = instructions(["a smiling face"], [2.0], num_channels=20)
    prompts += instructions(["an old face"], [1.0], method="optimize", options='{"steps": 1}')
    build_manifest([f"w-{i:05d}" for i in range(5)], prompts, manifest)
    command = ["edit", root, manifest, "--models", models, "--shard-size", "4", *FAST]
    call(capsys, *command, "--run", "one")
    request.getfixturevalue("no_server")
    assert app.meta([*command, "--worker", "0/2"]) == 2
    assert "give the same command with `--worker prepare`" in " ".join(
        capsys.readouterr().err.split()
    )
    prepared = call(capsys, *command, "--worker", "prepare")
    assert (prepared["counts"], prepared["facts"]) == ({"planned": 3}, {"rows": 10})
    other = [word if word != models else "demo" for word in command]
    assert app.meta([*other, "--worker", "1/2", "--image-format", "webp"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "image_format: got 'webp', begun with 'png'" in told
    assert f"begun with {models!r}" in told
    sizes, edit = [], Editor.edit

    def counted(editor: Editor, batch: Batch) -> Iterator[Edited]:
        sizes.append(len(batch.rows))
        return edit(editor, batch)

    monkeypatch.setattr(Editor, "edit", counted)
    halves = [
        call(capsys, *command, "--worker", f"{index}/2", "--batch-size", f"{index + 1}")
        for index in (1, 0)
    ]
    assert [half["counts"] for half in halves] == [{"ok": 4}, {"ok": 6}]
    # The batch size is each worker's own.
    assert sizes == [2, 2, *[1] * 6]
    again = call(capsys, *command, "--worker", "0/2", "--retry-failed")
    assert (again["counts"], again["facts"]) == ({}, {"rows": 10})
    one, both = [
        pa.concat_tables(run_ledger(run_folder(root, n)).results()) for n in ("one", "run")
    ]
    numbers = [name for name in one.column_names if pa.types.is_floating(one[name].type)]
    apart = ["output_uri", *numbers]
    assert one.drop_columns(apart).equals(both.drop_columns(apart))
    # CLIP's last bits depend on how many images it is given at once.
    assert one["clip_score"].to_pylist() == pytest.approx(both["clip_score"].to_pylist(), abs=1e-3)


def test_photographs_are_shared_out(tmp_path, models, capsys, no_server):
    (tmp_path / "photos").mkdir()
    for name in "abc":
        Image.new("RGB", (40, 40), "white").save(tmp_path / "photos" / f"{name}.png")
    command = ["align", str(tmp_path / "photos"), str(tmp_path / "ws"), "--shard-size", "1"]
    assert call(capsys, *command, "--worker", "prepare")["counts"] == {"planned": 3}
    counts = [call(capsys, *command, "--worker", f"{i}/2")["counts"] for i in range(2)]
    assert counts == [{"no_face": 2}, {"no_face": 1}]
    assert call(capsys, "--no-server", *command)["counts"] == {}
    for stage in ("invert", "relevance"):
        words = [stage, str(tmp_path / "ws"), "--models", models, "--worker", "0/2"]
        assert app.meta(words) == 2
        assert "which is not prepared" in " ".join(capsys.readouterr().err.split())


def test_sample_images_are_shared_out(tmp_path, models, capsys, no_server):
    def command(workspace: str) -> list[str]:
        words = ["relevance", str(tmp_path / workspace), "--models", models]
        return [*words, "--num-images", "6", "--num-statistics", "50"]

    prepared = call(capsys, *command("both"), "--worker", "prepare")
    assert prepared["counts"] == {"images": 2, "planned": 4}
    first, last, late = [
        call(capsys, *command("both"), "--worker", f"{i}/2")["counts"] for i in (1, 0, 1)
    ]
    assert (first, last["images"], late) == ({"images": 2}, 2, {})
    assert last["channels that move CLIP"] > 100
    told = []
    for _ in range(2):
        assert app.meta(["--no-server", *command("one")]) == 0
        told.append("(1 is the same, 0.9 or more is good)" in capsys.readouterr().err)
    # The second time nothing is measured.
    assert told == [True, False]
    one, both = [
        DirectionStore(Folder(str(next((tmp_path / name / "directions").iterdir())))).read()
        for name in ("one", "both")
    ]
    # Threads add gradients up in any order.
    directions = [found.channel_clip_directions for found in (one, both)]
    torch.testing.assert_close(*directions, atol=1e-4, rtol=0)


def test_a_fault_that_may_pass_gets_another_attempt_without_a_server(monkeypatch, capsys):
    monkeypatch.setattr(engines, "wait_exponential_jitter", wait_none)
    attempts = []

    def work(shard: int, lasting: bool) -> dict[str, int]:
        attempts.append(shard)
        if lasting or attempts.count(shard) < 3:
            raise StoreError("s3://faces: throttled", lasting=lasting)
        return {"ok": 1}

    with LoneCrew(1) as crew:
        task = shard_task(work, "edit")
        passed, lasted = (
            crew.settle(crew.submit(task, {"shard": shard, "lasting": bool(shard)}))
            for shard in range(2)
        )
    assert (passed.done, passed.counts, lasted.done) == (True, {"ok": 1}, False)
    assert (attempts, str(lasted.error)) == ([0, 0, 0, 1], "s3://faces: throttled")
    assert capsys.readouterr().err.splitlines() == [
        f"work shard-0 failed in attempt {attempt} of 3, which is tried again: "
        "s3://faces: throttled"
        for attempt in (1, 2)
    ]


def test_verify_tells_what_is_not_done_from_what_is_wrong(tmp_path, models, capsys, no_server):
    root, manifest = str(tmp_path / "ws"), str(tmp_path / "edits.parquet")
    torch.save(torch.randn(3, 8, 28), tmp_path / "w.pt")
    import_latents.fn(root, str(tmp_path / "w.pt"), models=models, device="cpu")
    prompts = instructions(["a smiling face"], [2.0], num_channels=20)
    build_manifest([f"w-{i:05d}" for i in range(3)], prompts, manifest)
    command = ["edit", root, manifest, "--models", models, "--shard-size", "2", *FAST]
    call(capsys, *command, "--worker", "prepare")
    call(capsys, *command, "--worker", "1/2")

    def verify(*words: str) -> tuple[int, str, str]:
        return app.meta([*words, "--no-server", "verify", root]), *capsys.readouterr()

    status, out, err = verify("--json")
    counts = json.loads(out)["counts"]
    assert (status, counts["rows"], counts["waiting"], counts["wrong"]) == (1, 1, 2, 0)
    assert "got none yet of 1 of 2 shards" in err
    assert "what is done is sound" in verify()[1]
    call(capsys, *command, "--worker", "0/2")
    status, out, _ = verify()
    assert (status, "waiting" in out, "(all is sound)" in out) == (0, False, True)
