"""The whole main job on small networks, as processes that can be killed, and what it leaves."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import zarr

from benchmarks.endurance.small_bundle import write_small_bundle
from flows.embedded_server import end_server_with_command
from manifests.schemas import MAPPER_LOG
from tasks.directions import STORE as DIRECTIONS
from tasks.latents import STORE as W_PLUS
from tasks.latents import LatentStore
from tasks.outputs import read_image
from tasks.photos.faces import faces_table
from tasks.runs import run_folder, run_ledger
from tasks.store.folders import Folder, sha256
from tasks.store.ledger import read_table

PROMPTS = """target_prompt,method,alpha,num_channels,options
a smiling face,global,1;2,20,
a face with glasses,optimize,1,,"{""steps"": 2}"
a face with red hair,mapper,1,,"{""steps"": 4, ""mapper_type"": ""style_space""}"
"""
PHOTOS = 2
STAGES = ("align", "invert", "relevance", "train-mapper", "edit", "evaluate")
# Images and tables that tell nothing of when they were made.
_FILES = ("crops", "inversions", "runs/run/images")
_TIMES = ("seconds",)

Snapshot = Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """Photographs, prompts and networks, and one workspace for all runs of it.

    Attributes:
        folder: Of everything.
    """

    folder: Path

    @property
    def workspace(self) -> Path:
        """Where every run writes."""
        return self.folder / "workspace"

    @property
    def command(self) -> list[str]:
        """The words after `styleclip`."""
        return [
            *("run", str(self.folder / "photos"), str(self.folder / "prompts.csv")),
            *(str(self.workspace), "--models", str(self.folder / "models" / "bundle.json")),
            *("--num-images", "2", "--num-statistics", "50", "--mode", "fast"),
            *("--device", "cpu", "--shard-size", "2", "--arithmetic", "float32"),
        ]

    def start(self) -> ForkServerProcess:
        """Start the command in a process group of its own."""
        process = get_context("forkserver").Process(
            target=_run, args=(self.command, str(self.folder / "log.txt"))
        )
        process.start()
        return process

    def finish(self) -> None:
        """Run the command to its end.

        Raises:
            RuntimeError: It failed.
        """
        self.wait([self.start()])

    def wait(self, processes: list[ForkServerProcess]) -> None:
        """Wait for commands.

        Raises:
            RuntimeError: One failed.
        """
        for process in processes:
            process.join()
        codes = [process.exitcode for process in processes]
        if any(codes):
            log = (self.folder / "log.txt").read_text(encoding="utf-8")
            raise RuntimeError(f"styleclip run: got exit codes {codes}, expected 0:\n{log[-4000:]}")

    def clear(self) -> None:
        """Remove what runs wrote."""
        shutil.rmtree(self.workspace, ignore_errors=True)
        (self.folder / "log.txt").unlink(missing_ok=True)

    def stage(self) -> str:
        """Return the stage that a stopped command was in, by what it left."""
        folder = Folder(str(self.workspace))
        if not (folder / "faces").names():
            return "start"
        ends = ("faces/_commits", "latents/*/_commits", "directions/*/_commits")
        for stage, path in zip(STAGES, (*ends, "mappers/*/mapper.safetensors"), strict=False):
            if not [*self.workspace.glob(path)]:
                return stage
        ledger = run_ledger(run_folder(folder.url, "run"))
        if not ledger.folder.exists("manifest.json") or ledger.pending():
            return "edit"
        return "evaluate" if not ledger.folder.exists("report/index.html") else "end"

    def length(self) -> float:
        """Return how long a finished run took, in seconds, from its first file to the last."""
        first, last = "faces/_plans/shard-00000.parquet", "runs/run/report/index.html"
        times = [(self.workspace / name).stat().st_mtime for name in (first, last)]
        return times[1] - times[0]

    def snapshot(self) -> Snapshot:
        """Read everything that a finished run left, but times."""
        folder, found = Folder(str(self.workspace)), dict[str, Any]()
        for name in _FILES:
            for file in (folder / name).files():
                if not Path(file).name.startswith(".part-"):
                    found[f"{name}/{file}"] = sha256((folder / name).read(file))
        found["faces"] = repr(faces_table(folder.url).to_pylist())
        (latents,) = self.workspace.glob("latents/*")
        found["latents"] = repr(_rows(LatentStore(Folder(str(latents))).ledger.results()))
        for store in (latents / W_PLUS, next(self.workspace.glob("directions/*")) / DIRECTIONS):
            for name, array in zarr.open_group(str(store), mode="r").arrays():
                found[f"{store.name}/{name}"] = repr(np.asarray(array[:]).tolist())
        for mapper in self.workspace.glob("mappers/*"):
            found[f"mapper {mapper.name}"] = sha256((mapper / "mapper.safetensors").read_bytes())
            log = read_table((mapper / "training.parquet").read_bytes()).cast(MAPPER_LOG)
            found[f"log {mapper.name}"] = repr(_rows([log]))
        run = run_folder(folder.url, "run")
        found["results"] = repr(_rows(run_ledger(run).results()))
        found["metrics"] = repr(_rows([read_table(run.read("report/metrics.parquet"))]))
        found["pairs"] = sha256(run.read("pairs.parquet"))
        return found

    def mistakes(self) -> Iterator[str]:
        """Yield everything by which a finished run contradicts itself."""
        run = run_folder(str(self.workspace), "run")
        ledger = run_ledger(run)
        wanted = read_table(run.read("pairs.parquet"))["pair_id"].to_pylist()
        rows = _rows(ledger.results())
        got = [row["pair_id"] for row in rows]
        if sorted(got) != sorted(wanted):
            yield f"got {len(got)} rows of {len(set(got))} pairs, expected {len(wanted)}"
        for row in rows:
            if (
                row["status"] != "ok"
                or sha256(read_image(row["output_uri"])) != row["output_sha256"]
            ):
                yield f"{row['pair_id']}: {row['status']}, or its file has another digest"
        for row in faces_table(str(self.workspace)).to_pylist():
            if row["crop_uri"] and sha256(Path(row["crop_uri"]).read_bytes()) != row["crop_sha256"]:
                yield f"{row['image_id']}: the crop has another digest"
        for folder in self.workspace.glob("latents/*"):
            store = LatentStore(Folder(str(folder)))
            for shard in store.ledger.committed():
                if store.digest(shard) != store.ledger.read_commit(shard).facts["sha256"]:
                    yield f"latents of shard {shard}: other numbers than committed"


def make_job(folder: Path) -> Job:
    """Write photographs, prompts and networks: two faces, and a file that is no photograph."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    (folder / "models").mkdir()
    write_small_bundle(folder / "models")
    source = resources.files("demo") / "photos"
    chosen = sorted(p.name for p in source.iterdir() if p.name.startswith("person"))[:PHOTOS]
    for name in chosen:
        (photos / name).write_bytes((source / name).read_bytes())
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photograph")
    (folder / "prompts.csv").write_text(PROMPTS, encoding="utf-8")
    return Job(folder)


def differences(got: Snapshot, wanted: Snapshot) -> list[str]:
    """Return the names of what is not the same in two snapshots."""
    return sorted(
        name for name in {*got, *wanted} if name not in got or got[name] != wanted.get(name)
    )


@contextmanager
def prefect_server(folder: Path) -> Iterator[None]:
    """Let all commands talk to one Prefect server, whose start takes longer than a small run.

    It is the one that PREFECT_API_URL names, where it is set.
    """
    if "PREFECT_API_URL" in os.environ:  # noqa: TID251
        yield
        return
    # Prefect reads the environment when it is imported.
    os.environ["PREFECT_HOME"] = str(folder / "prefect")  # noqa: TID251
    end_server_with_command()
    from prefect.server.api.server import SubprocessASGIServer

    with SubprocessASGIServer() as server:
        os.environ["PREFECT_API_URL"] = server.api_url  # noqa: TID251
        yield


@contextmanager
def finished_job() -> Iterator[Job]:
    """Serve Prefect, and make a job that one undisturbed command has done."""
    with tempfile.TemporaryDirectory() as folder, prefect_server(Path(folder)):
        prepare_processes()
        job = make_job(Path(folder) / "job")
        job.finish()
        yield job


def prepare_processes() -> None:
    """Let commands start from a process that has all modules, so that kills fall into work."""
    get_context("forkserver").set_forkserver_preload(["benchmarks.endurance.preload"])


def _run(command: list[str], log: str) -> None:
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from flows.cli import app

    sys.exit(app.meta(command))


def _rows(tables: Any) -> list[dict[str, Any]]:
    table = pa.concat_tables(tables)
    rows: list[dict[str, Any]] = table.drop_columns(
        [name for name in _TIMES if name in table.column_names]
    ).to_pylist()
    return rows
