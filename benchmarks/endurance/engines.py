"""The same run on Dask with 1, 2 and 4 worker processes: equal tables, and scaling against ideal.

A dummy stands in for the networks of an edit: it sleeps and fills rows with numbers, since two
cores would hide how many workers there are. Everything else is the product's own: the plans, the
ledger, the sliding window, Prefect's task runs and Dask's worker processes. Each worker loads each
network once. At last a worker of four is killed amid its shard, which another does.

Ideal is the time that all sleeps take, by the number of workers. Run it with
`python -m benchmarks.endurance.engines`.
"""

import argparse
import hashlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from prefect import flow

from benchmarks.endurance.job import prefect_server
from benchmarks.endurance.small_bundle import write_small_bundle
from benchmarks.endurance.verdict import tell_checks
from flows.edit import edit_dataset
from flows.engines import Engine
from flows.interchange import import_latents
from flows.shards import run_shards
from manifests.building import instructions
from tasks import models
from tasks.edits import Editor, edit_pairs_shard
from tasks.manifest_files import build_manifest
from tasks.models import open_models
from tasks.runs import run_folder, run_ledger

_LEAST_EFFICIENCY = 0.8
_ROWS = 4
_loads = Counter[str]()


def sleepy_shard(run: str, bundle: str, shard: int, seconds: float, killed: str) -> dict[str, int]:
    """Do a shard with the dummy; where `killed` is not there yet, die with the process instead."""
    if killed:
        try:
            os.close(os.open(killed, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            time.sleep(seconds / 2)
            os.kill(os.getpid(), signal.SIGKILL)
    before, read = _loads.copy(), models.read_weights

    def counted(url: str, reader: Any) -> Any:
        _loads[f"load of {Path(url).name}"] += 1
        return read(url, reader)

    edit, Editor.edit = Editor.edit, _dummy_edit(seconds)  # type: ignore[method-assign]
    models.read_weights = counted  # type: ignore[assignment]
    try:
        _ = open_models(bundle, "cpu").generator
        counts = edit_pairs_shard(run, "cpu", shard)
    finally:
        Editor.edit, models.read_weights = edit, read  # type: ignore[method-assign]
    return counts | dict(_loads - before) | {f"process {os.getpid()}": 1}


def _dummy_edit(seconds: float) -> Any:
    def edit(_: Any, batch: Any) -> list[Any]:
        time.sleep(seconds)
        for row in batch.rows:
            digest = hashlib.sha256(row["pair_id"].encode()).hexdigest()
            row |= {"status": "ok", "edit_key": digest, "output_sha256": digest}
            row |= {"clip_score": int(digest[:6], 16) / 2**24, "seconds": seconds}
        return []

    return edit


@flow(name="edit-sleepily")
def edit_sleepily(
    run: str, bundle: str, workers: int, address: str, seconds: float, killed: str
) -> dict[str, int]:
    """Do all shards of a run on a Dask cluster that is there."""
    arguments = {"run": run, "bundle": bundle, "seconds": seconds, "killed": killed}
    shards = run_ledger(run_folder("", run)).pending()
    engine = Engine("dask", address)
    return run_shards("edit", sleepy_shard, shards, workers, arguments, engine=engine)


def compare_engines(
    folder: Path, workers: Sequence[int], shards: int, seconds: float
) -> dict[str, bool]:
    """Do the run with each number of workers, print a table, and return what was checked."""
    from distributed import Client, LocalCluster

    bundle, root = write_small_bundle(folder), str(folder / "ws")
    torch.save(torch.randn(shards * _ROWS, 8, 28), folder / "w.pt")
    import_latents.fn(root, str(folder / "w.pt"), models=bundle, device="cpu")
    names = [f"w-{i:05d}" for i in range(shards * _ROWS)]
    manifest = str(folder / "edits.parquet")
    build_manifest(names, instructions(["a sad face"], [1.0], method="optimize"), manifest)
    checks, tables = dict[str, bool](), list[pa.Table]()
    print(f"{'workers':>7} {'killed':>7} {'seconds':>8} {'ideal':>6} {'ideal / seconds':>16}")
    for count, kills in [*((count, False) for count in workers), (workers[-1], True)]:
        run = f"{count}-killed" if kills else str(count)
        edit_dataset.fn(
            root,
            manifest,
            run=run,
            models=bundle,
            shard_size=_ROWS,
            batch_size=_ROWS,
            device="cpu",
            worker="prepare",
        )
        one = {"n_workers": count, "threads_per_worker": 1, "dashboard_address": None}
        with LocalCluster(**one) as cluster, Client(cluster) as client:
            client.run(_warm)
            began = time.monotonic()
            url, killed = run_folder(root, run).url, str(folder / "killed") if kills else ""
            address = cluster.scheduler_address
            counts = edit_sleepily(url, bundle, count, address, seconds, killed)
            took = time.monotonic() - began
        ideal = shards * seconds / count
        print(f"{count:>7} {kills:>7} {took:>8.1f} {ideal:>6.1f} {ideal / took:>16.2f}", flush=True)
        tables.append(_table(root, run))
        processes = sum(name.startswith("process") for name in counts)
        title = f"{count} workers" + (", one killed" if kills else "")
        checks[f"{title}: every row is there once"] = counts["ok"] == shards * _ROWS
        loads = {times for name, times in counts.items() if name.startswith("load of")}
        checks[f"{title}: each process loads each network once"] = loads == {processes}
        if kills:
            checks[f"{title}: there was a kill"] = Path(killed).exists()
        else:
            checks[f"{title}: all work"] = processes == count
            checks[f"{title}: {_LEAST_EFFICIENCY} of ideal"] = ideal / took >= _LEAST_EFFICIENCY
    checks["all tables are equal"] = all(table.equals(tables[0]) for table in tables)
    return checks


def _warm() -> None:
    """Import in a worker what the first shard would."""
    import benchmarks.endurance.engines  # noqa: F401


def _table(root: str, run: str) -> pa.Table:
    table = pa.concat_tables(run_ledger(run_folder(root, run)).results())
    return table.drop_columns(["seconds"]).sort_by("pair_id")


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--shards", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=20.0, help="that a shard sleeps")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, prefect_server(Path(folder)):
        checks = compare_engines(Path(folder), options.workers, options.shards, options.seconds)
    return tell_checks("engines", checks)


if __name__ == "__main__":
    # Workers unpickle what is named by its module, which is not __main__.
    from benchmarks.endurance.engines import main as run

    sys.exit(run())
