"""A killed worker's run is finished by another worker, under a real server on Postgres.

A Postgres of its own, a Prefect server on it, the deployments of prefect.yaml, a schedule that soon
fires, a process work pool, and two workers. The scheduled run is begun by the first worker;
the second one comes, the first is killed with all its processes (kill -9), heartbeats stop, and the
run is given to the second. What was committed before must not be done again, and every row must be
there once. Then the manifest grows and an image comes that was missing: the next run of the
deployment does these rows only.

Run it with `python -m benchmarks.endurance.cluster`. It takes a quarter of an hour, and needs
Postgres on the machine (`apt-get install postgresql`).
"""

import argparse
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import torch
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.endurance.small_bundle import write_small_bundle
from benchmarks.endurance.verdict import tell_checks
from flows.deploy import deploy_flows
from flows.interchange import import_latents
from manifests.building import instructions
from tasks.manifest_files import build_manifest
from tasks.runs import run_folder, run_ledger

_ROOT = Path(__file__).parents[2]
_LONGEST = 900.0
_SOON_SECONDS = 90
# Prefect lets the event that a run is lost wait for the one before it, up to a quarter of an hour,
# where these are less than five minutes apart; two of the five are the silence of the run.
_AGE_SECONDS = 215


class Cluster:
    """Postgres, a server on it, and workers, all of them processes of this machine.

    Args:
        folder: For everything; removed by the caller.
        stack: Ends the processes.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._database = _start_postgres(folder / "postgres", stack)
        port = _free_port()
        self.api = f"http://127.0.0.1:{port}/api"
        self._environment = {
            name: value
            for name, value in os.environ.items()  # noqa: TID251
            if not name.startswith("PREFECT")
        } | {
            "PREFECT_API_DATABASE_CONNECTION_URL": self._database,
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, sys.path)]),
        }
        self._start("server", "server", "start", "--port", str(port))
        _wait_for("the server", lambda: _answers(f"{self.api}/health"))

    def start_worker(self, name: str) -> psutil.Process:
        """Start a worker of the pool, which polls every two seconds."""
        environment = {"PREFECT_WORKER_QUERY_SECONDS": "2"}
        words = ("worker", "start", "--pool", "styleclip", "--name", name)
        return psutil.Process(self._start(name, *words, **environment).pid)

    def flow_runs_stored(self) -> int:
        """Return how many flow runs Postgres holds, asked without Prefect."""
        psql = [_tool("psql"), self._database.replace("+asyncpg", ""), "-tAc"]
        done = subprocess.run(  # noqa: S603
            [*psql, "select count(*) from flow_run"], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    def _start(self, log: str, *words: str, **more: str) -> subprocess.Popen[bytes]:
        file = self._stack.enter_context((self._folder / f"{log}.log").open("wb"))
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "prefect", *words],
            env=self._environment | more,
            cwd=self._folder,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        self._stack.callback(kill_all, process.pid)
        return process


def kill_all(pid: int) -> None:
    """Kill a process and all that it began, at once, as when its machine is lost."""
    try:
        process = psutil.Process(pid)
        every = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for one in every:
        try:
            one.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(every, timeout=30)


def run_cluster(folder: Path, images: int, steps: int) -> dict[str, bool]:
    """Do it all, and return what was checked."""
    with ExitStack() as stack:
        workspace, models = folder / "ws", folder / "models"
        models.mkdir()
        bundle = write_small_bundle(models)
        latents = torch.randn(images + 1, 8, 28, generator=torch.Generator().manual_seed(7))
        _import(workspace, folder, latents[:images], [f"face-{i}" for i in range(images)], bundle)
        names = [f"face-{i}" for i in range(images)] + ["late"]
        prompts = instructions(
            ["a sad face"], [1.0], method="optimize", options=f'{{"steps": {steps}}}'
        )
        build_manifest(names, prompts, str(workspace / "edits.parquet"))
        cluster = Cluster(folder, stack)
        client = stack.enter_context(_client(cluster.api))
        checks = _lose_a_worker(cluster, client, folder, bundle, images)
        _import(workspace, folder, latents[images:], ["late"], bundle)
        prompts += instructions(["an old face"], [1.0], method="optimize", options='{"steps": 1}')
        build_manifest(names, prompts, str(workspace / "edits.parquet"))
        return checks | _run_again(client, workspace, images)


def _lose_a_worker(
    cluster: Cluster,
    client: SyncPrefectClient,
    folder: Path,
    bundle: str,
    images: int,
) -> dict[str, bool]:
    workspace = folder / "ws"
    file = _with_small_shards(folder / "prefect.yaml")
    deploy_flows(
        str(workspace), models=bundle, file=str(file), api=cluster.api, gpus=2, shards_per_gpu=1
    )
    first = cluster.start_worker("first")
    hourly = client.read_deployment_by_name("edit-dataset/hourly")
    # Prefect's scheduler looks once a minute, and plans nothing for the time before it looked.
    soon = datetime.now(UTC) + timedelta(seconds=_SOON_SECONDS)
    schedule = IntervalSchedule(interval=timedelta(hours=1), anchor_date=soon)
    created = DeploymentScheduleCreate(schedule=schedule, active=True)
    client.create_deployment_schedules(hourly.id, [created])
    _tell(f"deployed, with a schedule that fires in {_SOON_SECONDS} seconds")
    _wait_for("a scheduled run at work", lambda: _states(client)["RUNNING"] == 1)
    run = _scheduled_run(client)
    cluster.start_worker("second")
    commits = workspace / "runs" / "hourly" / "_commits"
    _wait_for("two commits", lambda: len([*commits.glob("*.json")]) >= 2)
    _wait_for("two workers", lambda: len(client.read_workers_for_work_pool("styleclip")) == 2)
    _wait_for("a run of some age", lambda: _age(run) > _AGE_SECONDS)
    kill_all(first.pid)
    before = {path.name: path.read_bytes() for path in commits.glob("*.json")}
    _tell(f"killed the first worker; {len(before)} of {images + 1} shards are committed")
    began = time.monotonic()
    _wait_for("the end of the run", lambda: client.read_flow_run(run.id).state_type == "COMPLETED")
    _tell(f"completed {time.monotonic() - began:.0f} s after the kill")
    run = client.read_flow_run(run.id)
    after = {path.name: path.read_bytes() for path in commits.glob("*.json")}
    rows = _rows(workspace)
    return {
        "the server keeps its runs in Postgres": cluster.flow_runs_stored() >= 1,
        "the schedule fired, nobody else": run.auto_scheduled,
        "the worker was killed amid the run": 2 <= len(before) <= images,
        "the same run was begun a second time": run.run_count == 2,
        "what was committed was not done again": before.items() <= after.items(),
        "every row is there once": Counter(rows) == {"ok": images, "no_latent": 1},
        # The deployment asks for missing images again whenever it begins.
        "all shards are committed": images + 1 <= len(after) <= images + 2,
    }


def _run_again(client: SyncPrefectClient, workspace: Path, images: int) -> dict[str, bool]:
    commits = workspace / "runs" / "hourly" / "_commits"
    before = {path.name: path.read_bytes() for path in commits.glob("*.json")}
    hourly = client.read_deployment_by_name("edit-dataset/hourly")
    run = client.create_flow_run_from_deployment(hourly.id)
    _wait_for("the second run", lambda: client.read_flow_run(run.id).state_type == "COMPLETED")
    after = {path.name: path.read_bytes() for path in commits.glob("*.json")}
    new = [name for name in after if name not in before]
    rows = _rows(workspace)
    return {
        "new rows and the late image are edited": Counter(rows) == {"ok": 2 * (images + 1)},
        "all others stay": before.items() <= after.items(),
        # One for each new row, and one that supersedes the commit of the late image.
        "nothing else is committed": len(new) == images + 2,
    }


def _with_small_shards(file: Path) -> Path:
    """Write the deployments of prefect.yaml, the hourly one with small shards."""
    described = yaml.safe_load((_ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    for entry in described["deployments"]:
        if entry["name"] == "hourly":
            entry["parameters"] |= {"shard_size": 1, "device": "cpu"}
    file.write_text(yaml.safe_dump(described), encoding="utf-8")
    return file


def _import(workspace: Path, folder: Path, latents: Any, names: list[str], bundle: str) -> None:
    torch.save(latents.clone(), folder / "latents.pt")
    (folder / "names.txt").write_text("\n".join(names), encoding="utf-8")
    import_latents.fn(
        str(workspace),
        str(folder / "latents.pt"),
        names=str(folder / "names.txt"),
        models=bundle,
        device="cpu",
    )


def _rows(workspace: Path) -> list[str]:
    table = pa.concat_tables(run_ledger(run_folder(str(workspace), "hourly")).results())
    ids = table["pair_id"].to_pylist()
    statuses: list[str] = table["status"].to_pylist()
    return statuses if len({*ids}) == len(ids) else ["a row comes twice"]


def _scheduled_run(client: SyncPrefectClient) -> FlowRun:
    hourly = client.read_deployment_by_name("edit-dataset/hourly")
    runs = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[hourly.id]))
    )
    return next(run for run in runs if run.start_time is not None)


def _age(run: FlowRun) -> float:
    assert run.start_time
    return (datetime.now(UTC) - run.start_time).total_seconds()


def _states(client: SyncPrefectClient) -> Counter[str]:
    return Counter(str(run.state_type.value) for run in client.read_flow_runs() if run.state_type)


@contextmanager
def _client(api: str) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        yield client


def _start_postgres(folder: Path, stack: ExitStack) -> str:
    """Start a database of its own, and return its URL; root lets the user postgres do it."""
    folder.mkdir()
    as_user: list[str] = []
    if os.getuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        for parent in (folder.parent, folder.parent.parent):
            if parent != Path(tempfile.gettempdir()):
                parent.chmod(0o755)
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data, port = folder / "data", _free_port()
    subprocess.run(  # noqa: S603
        [*as_user, _tool("initdb"), "-D", str(data), "-A", "trust", "-U", "prefect", "--no-sync"],
        check=True,
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    log = stack.enter_context((folder.parent / "postgres.log").open("wb"))
    server = subprocess.Popen(  # noqa: S603
        [*as_user, _tool("postgres"), "-D", str(data), "-p", str(port), "-k", str(folder)],
        cwd=folder,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    stack.callback(kill_all, server.pid)
    ready = [_tool("pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
    _wait_for(
        "Postgres",
        lambda: subprocess.run(ready, check=False, capture_output=True).returncode == 0,  # noqa: S603
    )
    return f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"


def _tool(name: str) -> str:
    """Return the path of a program of Postgres, which Debian keeps out of PATH."""
    found = shutil.which(name) or next(
        (str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None
    )
    if found is None:
        raise FileNotFoundError(f"{name}: not there, expected Postgres; apt-get install postgresql")
    return found


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):  # noqa: S310
            return True
    except OSError:
        return False


def _wait_for(what: str, there: Callable[[], bool]) -> None:
    end = time.monotonic() + _LONGEST
    while not there():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not there after {_LONGEST:.0f} s")
        time.sleep(1)


def _tell(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", flush=True)


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=80, help="shards of the run, one image each")
    parser.add_argument("--steps", type=int, default=1500, help="of the optimization of each image")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        checks = run_cluster(folder, options.images, options.steps)
        status = tell_checks("cluster", checks)
    except BaseException:
        print(f"logs are in {folder}", file=sys.stderr)
        raise
    if not status:
        shutil.rmtree(folder)
    return status


if __name__ == "__main__":
    sys.exit(main())
