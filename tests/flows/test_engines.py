"""The same run on every engine; a shard whose worker is killed is done by another."""

import os
import signal
import subprocess
import sys

import pyarrow as pa
import pytest
import torch
from prefect import flow
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import engines, shards
from flows.edit import edit_dataset
from flows.engines import Engine, EngineError, hire, read_engine
from flows.failures import StageError
from flows.interchange import import_latents
from flows.shards import run_shards
from manifests.building import instructions
from tasks import models as models_module
from tasks.directions import RelevanceConfig
from tasks.manifest_files import build_manifest
from tasks.runs import run_folder, run_ledger
from tasks.store.faults import StoreError


def test_an_engine_is_named_with_or_without_an_address(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: name == "prefect_dask" or None)
    assert read_engine("threads") == Engine("threads")
    assert read_engine("dask:tcp://10.0.0.1:8786") == Engine("dask", "tcp://10.0.0.1:8786")
    for wrong in ("spark", "threads:8", ""):
        with pytest.raises(EngineError, match="expected threads, processes, dask"):
            read_engine(wrong)
    with pytest.raises(EngineError, match=r"pip install -c constraints.txt '.\[ray\]'"):
        read_engine("ray")
    with pytest.raises(EngineError, match="give each its --worker"):
        hire(2, Engine("processes"))


SLOT = "import sys, tasks.slots as s; print(s.own_slot(), flush=True); sys.stdin.read()"


def test_processes_take_different_accelerators_and_that_of_a_lost_one(tmp_path, monkeypatch):
    def begin() -> tuple[subprocess.Popen, int]:
        process = subprocess.Popen(
            [sys.executable, "-c", SLOT],
            env={"TMPDIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return process, int(process.stdout.readline())

    (first, one), (second, two) = begin(), begin()
    assert (one, two) == (0, 1)
    first.kill()
    first.communicate()
    third, three = begin()
    assert three == 0
    for process in (second, third):
        process.communicate()
    accelerator = torch.device("cuda")
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available: accelerator
    )
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    monkeypatch.setattr(models_module, "own_slot", lambda: 6)
    assert models_module.best_device() == "cuda:2"
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    assert models_module.best_device() == "cuda"


def test_workers_ask_the_server_of_their_flow():
    configured = PREFECT_API_URL.value()
    with engines.one_server():
        assert PREFECT_API_URL.value() == configured
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert PREFECT_API_URL.value() is None
        with engines.one_server():
            assert PREFECT_API_URL.value() == SubprocessASGIServer().api_url


ORPHAN = """
import os, subprocess, sys
worker = "import os, time; from flows.lifetimes import end_with; end_with(os.getppid()); "
worker += "print('at work', flush=True); time.sleep(100)"
process = subprocess.Popen([sys.executable, "-c", worker], stdout=subprocess.PIPE)
print(process.stdout.readline().decode(), process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_worker_process_ends_with_a_flow_that_is_killed():
    command = [sys.executable, "-c", ORPHAN]
    # stderr is the worker's as well: it closes when both are gone.
    done = subprocess.run(
        command, env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, timeout=60
    )
    assert (done.returncode, b"at work" in done.stdout) == (-signal.SIGKILL, True)


def test_a_killed_process_is_replaced_and_its_shards_are_done(tmp_path):
    def work(shard: int, killed: str) -> dict[str, int]:
        try:
            os.close(os.open(killed, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            if shard == 2:
                raise StoreError("token expired", lasting=True) from None
            return {"ok": 1, f"process {os.getpid()}": 1}
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    @flow(name="stage")
    def stage() -> dict[str, int]:
        arguments = {"killed": str(tmp_path / "killed")}
        return run_shards("stage", work, [0, 1, 2], 1, arguments, engine=Engine("processes"))

    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "show_counts", lambda _, counts: shown.append(dict(counts)))
        with pytest.raises(StageError, match="1 of 3 shards failed, 2 are done") as caught:
            stage()
    # What was raised in the process is known here, so that it is not tried again.
    assert "shard 2: StoreError: token expired" in str(caught.value)
    (counts,) = shown
    assert counts.pop("ok") == 2
    assert list(counts.values()) == [2]
    assert f"process {os.getpid()}" not in counts


@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_a_cluster_makes_the_same_edits(engine, tmp_path, models):
    pytest.importorskip(f"prefect_{engine}")
    root, manifest = str(tmp_path / "ws"), str(tmp_path / "edits.parquet")
    torch.save(torch.randn(4, 8, 28), tmp_path / "w.pt")
    import_latents(root, str(tmp_path / "w.pt"), models=models, device="cpu")
    build_manifest(
        [f"w-{i:05d}" for i in range(4)],
        instructions(["a sad face"], [2.0], num_channels=20),
        manifest,
    )
    tables = []
    for run, carried in (("one", "threads"), ("other", engine)):
        edit_dataset(
            root,
            manifest,
            run=run,
            models=models,
            relevance=RelevanceConfig(num_images=1, num_statistics=50, mode="fast"),
            device="cpu",
            shard_size=2,
            arithmetic="float32",
            engine=carried,
        )
        table = pa.concat_tables(run_ledger(run_folder(root, run)).results())
        tables.append(table.drop_columns(["output_uri", "seconds"]))
    assert tables[0].equals(tables[1])
    assert tables[0]["status"].to_pylist() == ["ok"] * 4
