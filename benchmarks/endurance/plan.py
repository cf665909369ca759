"""What a hundred million pairs take: shards, objects, requests, dollars, and what breaks first.

What a shard asks of the store is counted on a real S3 API, with the product's own tasks and a dummy
in place of the networks; what one process does alone is timed. The rest is
arithmetic with the prices below, and a simulation of workers that share a Prefect server of a given
rate. Run it with `python -m benchmarks.endurance.plan`; the outcome is in docs/scaling.md.
"""

import argparse
import heapq
import math
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.endurance.faults import BUCKET, s3_server
from benchmarks.endurance.small_bundle import write_small_bundle
from benchmarks.endurance.verdict import tell_checks
from benchmarks.endurance.volume import _dummy_edit
from flows.edit import edit_dataset
from flows.embedded_server import end_server_with_command
from flows.interchange import import_latents
from manifests.building import instructions
from tasks.edits import Editor, edit_pairs_shard
from tasks.manifest_files import build_manifest
from tasks.runs import run_folder, run_ledger
from tasks.store.enduring_s3 import EnduringS3
from tasks.store.folders import Folder

# Dollars, as S3 standard in us-east-1 lists them: 1,000 requests that write or list, and that read.
PRICE_WRITE, PRICE_READ = 0.005, 0.0004
_LISTED = 1_000
_WRITES = ("put_object", "list_objects_v2", "copy_object")
# A report holds this much of a row, and the check of a manifest that much, see the program volume.
BYTES_IN_REPORT, BYTES_IN_CHECK = 60, 40
LARGEST_MANIFEST = 100_000_000


@dataclass(frozen=True)
class Measured:
    """What was measured on a small run.

    Attributes:
        per_shard: Requests of one shard, by kind, without those for images and listings.
        listings_per_shard: Of the commits of latents, each as long as there are.
        prepare: Seconds a row of a process that plans.
        report: Seconds a row of one that reads all results.
    """

    per_shard: Counter[str]
    listings_per_shard: int
    prepare: float
    report: float


@dataclass(frozen=True)
class Plan:
    """What is asked.

    Attributes:
        pairs, images: Rows, and the faces that they share.
        shard_size: Rows of a shard.
        workers: That do shards at a time.
        seconds: An edit takes on one of them.
        rate: Task runs that the server takes in a second.
        latency: Seconds of a request to the store.
    """

    pairs: int
    images: int
    shard_size: int
    workers: int
    seconds: float = 0.1
    rate: float = 20.0
    latency: float = 0.05

    @property
    def shards(self) -> int:
        """How many there are."""
        return math.ceil(self.pairs / self.shard_size)

    @property
    def latent_shards(self) -> int:
        """Of the store of latents."""
        return math.ceil(self.images / 1024)

    def objects(self, tars: bool) -> int:
        """Objects of the run: plan, part and commit of each shard, and images or a tar."""
        return 3 * self.shards + (self.shards if tars else self.pairs)

    def requests(self, measured: Measured, tars: bool) -> Counter[str]:
        """Requests of the whole run, by kind."""
        total = Counter({kind: n * self.shards for kind, n in measured.per_shard.items()})
        pages = math.ceil(self.latent_shards / _LISTED)
        total["list_objects_v2"] += measured.listings_per_shard * pages * self.shards
        total["list_objects_v2"] += 2 * math.ceil(self.shards / _LISTED)
        total["put_object"] += self.shards if tars else self.pairs
        return total

    def start(self) -> float:
        """Seconds that a start takes to list plans and commits."""
        return 2 * math.ceil(self.shards / _LISTED) * self.latency


def dollars(requests: Counter[str]) -> float:
    """What requests cost."""
    prices = ((PRICE_WRITE if k in _WRITES else PRICE_READ) * n for k, n in requests.items())
    return sum(prices) / 1_000


def simulate(plan: Plan, requests: int, shards: int, seed: int) -> float:
    """Return the share of the time in which workers edit, over the first `shards` shards.

    A worker asks the server for a task run, which answers one after the other at its rate, edits
    for a time that varies by a fifth, and waits for its requests to the store.
    """
    draw, ready, free, worked = random.Random(seed), [0.0] * plan.workers, 0.0, 0.0  # noqa: S311
    mean = plan.shard_size * plan.seconds
    for _ in range(shards):
        now = heapq.heappop(ready)
        free = max(free, now) + 1 / plan.rate
        work = mean * draw.lognormvariate(-0.02, 0.2)
        worked += work
        heapq.heappush(ready, free + work + requests * plan.latency)
    return worked / (plan.workers * (sum(ready) / len(ready)))


def measure(folder: Path, rows: int) -> Measured:
    """Count the requests of a shard on a real S3 API, and time what one process does alone.

    Seconds are those of the processor, in a directory: other programs do not disturb them, and what
    a store takes is counted apart.
    """
    with _run(folder / "s3", f"s3://{BUCKET}/plan", 100) as (run, _):
        # The first shard also opens what later ones share.
        edit_pairs_shard(run.url, "cpu", 0)
        with counted() as requests:
            edit_pairs_shard(run.url, "cpu", 1)
    with _run(folder / "directory", str(folder / "ws"), rows) as (run, prepare):
        for shard in run_ledger(run).pending():
            edit_pairs_shard(run.url, "cpu", shard)
        began = time.process_time()
        assert sum(len(table) for table in run_ledger(run).results()) == rows
        report = (time.process_time() - began) / rows
    listings = requests.pop("list_objects_v2", 0)
    return Measured(requests, listings, prepare, report)


@contextmanager
def _run(folder: Path, root: str, rows: int) -> Iterator[tuple[Folder, float]]:
    """Prepare a run of ten shards, which a dummy edits in the block; also give seconds a row."""
    folder.mkdir()
    bundle, images = write_small_bundle(folder), 10
    torch.save(torch.randn(images, 8, 28), folder / "w.pt")
    import_latents.fn(root, str(folder / "w.pt"), models=bundle, device="cpu")
    prompts = instructions([f"a face {i}" for i in range(rows // images)], [1.0], method="optimize")
    manifest = str(folder / "edits.parquet")
    build_manifest([f"w-{i:05d}" for i in range(images)], prompts, manifest)
    began, edit = time.process_time(), Editor.edit
    edit_dataset.fn(
        root, manifest, models=bundle, device="cpu", shard_size=rows // 10, worker="prepare"
    )
    prepare = (time.process_time() - began) / rows
    Editor.edit = _dummy_edit  # type: ignore[method-assign, assignment]
    try:
        yield run_folder(root, "run"), prepare
    finally:
        Editor.edit = edit  # type: ignore[method-assign]


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the requests to S3 in the block, by kind."""
    kinds, call = Counter[str](), EnduringS3._call_s3

    async def counting(self: EnduringS3, method: str, *arguments: Any, **options: Any) -> Any:
        kinds[method] += 1
        return await call(self, method, *arguments, **options)

    EnduringS3._call_s3 = counting  # type: ignore[method-assign]
    try:
        yield kinds
    finally:
        EnduringS3._call_s3 = call  # type: ignore[method-assign]


def breaks(plan: Plan, measured: Measured, memory: float) -> list[tuple[float, str]]:
    """Return at how many pairs each limit is reached, the lowest first.

    Args:
        plan: Its shard size, workers and rates.
        measured: On a small run.
        memory: Bytes of the machine that plans and reports.
    """
    hour = 3_600.0
    per_worker = plan.shard_size * plan.seconds
    limits = [
        (memory / BYTES_IN_REPORT, f"the report's numbers fill {memory / 2**30:.0f} GiB"),
        (memory / BYTES_IN_CHECK, f"the check of the manifest fills {memory / 2**30:.0f} GiB"),
        (LARGEST_MANIFEST, "the largest manifest that is read"),
        (8 * hour / measured.prepare, "one process plans for 8 hours"),
        (8 * hour / measured.report, "one process reads results for 8 hours"),
        (
            600 / plan.latency / 2 * _LISTED * plan.shard_size,
            "a start lists plans and commits for 10 minutes",
        ),
        (5 * _LISTED * 1024 * plan.pairs / plan.images, "every shard lists latents in 5 requests"),
    ]
    told = f"{plan.rate * per_worker:,.0f} workers at {plan.shard_size} rows a shard"
    return [*sorted(limits), (math.inf, f"Prefect's server: at any size, with {told}")]


def show(measured: Measured, pairs: int, images: int, memory: float) -> dict[str, bool]:
    """Print the plan, and return what was checked of it."""
    print(f"a shard asks for {dict(measured.per_shard)}, {measured.listings_per_shard} listings")
    print(
        f"one process plans {1 / measured.prepare:,.0f} rows/s, reads {1 / measured.report:,.0f}\n"
    )
    print(
        f"{'rows a shard':>12} {'shards':>9} {'objects':>13} {'with tars':>10} {'requests':>13} "
        f"{'dollars':>8} {'with tars':>10} {'start':>7}"
    )
    sizes, costs = (256, 1_024, 4_096), list[float]()
    for size in sizes:
        plan = Plan(pairs, images, size, 1)
        files, tars = (plan.requests(measured, kind) for kind in (False, True))
        costs.append(dollars(tars))
        there = f"{plan.shards:>9,} {plan.objects(False):>13,} {plan.objects(True):>10,}"
        asked = f"{files.total():>13,} {dollars(files):>8,.0f} {costs[-1]:>10,.2f}"
        print(f"{size:>12,} {there} {asked} {plan.start():>5.0f} s")
    print(f"\nshare of the time in which workers edit, at {Plan(1, 1, 1, 1).rate:.0f} task runs/s")
    counts = (10, 100, 300, 1_000)
    print(f"{'rows a shard':>12} " + " ".join(f"{n:>6,}" for n in counts) + "  workers")
    shares = {
        (size, n): _share(measured, Plan(pairs, images, size, n)) for size in sizes for n in counts
    }
    for size in sizes:
        print(f"{size:>12,} " + " ".join(f"{shares[size, n]:>6.0%}" for n in counts))
    print(f"\nwhat breaks, with 1,024 rows a shard and {pairs / images:.0f} pairs an image")
    limits = breaks(Plan(pairs, images, 1_024, 100), measured, memory)
    for reached, what in limits:
        print(f"{'-' if math.isinf(reached) else f'{reached:,.0f}':>15} pairs  {what}")
    return {
        "larger shards cost less": costs == sorted(costs, reverse=True),
        "few workers edit nearly always": shares[1_024, 10] > 0.9,
        "many workers of small shards wait for the server": shares[256, 1_000] < 0.7,
        "many workers of large shards do not": shares[4_096, 1_000] > 0.9,
        "a shard asks for less than 100 requests": measured.per_shard.total() < 100,
        "a shard lists ten times at most": measured.listings_per_shard <= 10,
    }


def _share(measured: Measured, plan: Plan) -> float:
    requests = measured.per_shard.total() + measured.listings_per_shard
    return simulate(plan, requests, 20 * plan.workers, seed=1)


def main(words: Sequence[str] | None = None) -> int:
    """Run the program."""
    end_server_with_command()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100_000_000)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--memory", type=float, default=16 * 2**30, help="bytes, of one process")
    parser.add_argument("--rows", type=int, default=20_000, help="of the run that is measured")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder, s3_server():
        measured = measure(Path(folder), options.rows)
    checks = show(measured, options.pairs, options.images, options.memory)
    print()
    return tell_checks("plan", checks)


if __name__ == "__main__":
    sys.exit(main())
