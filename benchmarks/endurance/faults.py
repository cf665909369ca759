"""The whole pipeline on a store that fails every tenth request, in seven ways.

Photographs are aligned, inverted, edited by all three methods and judged twice through a proxy in
front of a real S3 API: once undisturbed, and once while the proxy throttles, answers with errors,
cuts connections before and after the store has done what was asked, truncates answers, and answers
too late (see `faulty_proxy`). Both must give the same images, tables and arrays, and as many rows
as went in. Run it with `python -m benchmarks.endurance.faults`.
"""

import argparse
import io
import json
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import boto3
import numpy as np
from moto.server import ThreadedMotoServer
from prefect.testing.utilities import prefect_test_harness

from benchmarks.endurance.comparison import count_compared, differences
from benchmarks.endurance.faulty_proxy import FAULTS, faulty_proxy
from benchmarks.endurance.small_bundle import NUM_WS, W_DIM, write_small_bundle
from flows.edit import edit_dataset
from flows.embedded_server import end_server_with_command
from flows.interchange import import_latents
from flows.pipeline import run_pipeline
from tasks.directions import RelevanceConfig
from tasks.manifest_files import build_manifest, read_prompts
from tasks.runs import run_folder, run_ledger
from tasks.store.faults import retried_requests
from tasks.store.folders import Folder

BUCKET, LATENTS = "endurance", 2
# Any will do for moto.
_KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}
_RELEVANCE = RelevanceConfig(num_images=1, num_statistics=50, mode="fast")


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        photos: Photographs with one face each; where none, two latents are imported instead, and
            there is no report.
        prompts: Rows for each face.
        shard_size: Rows of a shard.
    """

    photos: int = 4
    prompts: int = 50
    shard_size: int = 16

    @property
    def rows(self) -> int:
        """Rows of the manifest."""
        return (self.photos or LATENTS) * self.prompts


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        requests: That the proxy saw while it failed some.
        faults: By kind.
        retries: That the product counted, by kind of error.
        rows_in: Faces times prompts.
        rows_out: Committed result rows.
        pairs: Different pair ids among them.
        statuses: Of the rows.
        compared: Things that were compared with the undisturbed run.
        differing: What differs.
    """

    requests: int
    faults: Mapping[str, int]
    retries: Mapping[str, int]
    rows_in: int
    rows_out: int
    pairs: int
    statuses: Mapping[str, int]
    compared: Mapping[str, int]
    differing: list[str]

    @property
    def checks(self) -> dict[str, bool]:
        """What must be so."""
        return {
            "rows out are rows in": self.rows_out == self.rows_in,
            "no row comes twice": self.pairs == self.rows_out,
            "every row is edited": self.statuses == {"ok": self.rows_in},
            "images, tables and arrays are equal": not self.differing,
            "every kind of fault happened": set(self.faults) == set(FAULTS),
            "requests were tried again": sum(self.retries.values()) > 0,
        }


def measure(
    upstream: str, models: str, size: Size, rate: float, seed: int, read_timeout: float
) -> Outcome:
    """Run the pipeline twice in the bucket of a store, undisturbed and disturbed, and compare.

    Args:
        upstream: URL of the S3 API, where the environment too says it is.
        models: URL of a bundle.
        size: How much.
        rate: Share of requests that fail.
        seed: Of what fails how.
        read_timeout: Seconds until a late answer is given up.
    """
    root = f"s3://{BUCKET}/{seed}-{time.time_ns()}"
    with faulty_proxy(upstream, seed=seed, read_timeout=read_timeout) as proxy:
        _fill(Folder(root), size)
        _run(root, "quiet", models, size)
        proxy.rate, proxy.requests, before = rate, 0, retried_requests()
        _run(root, "faulty", models, size)
        requests, retries = proxy.requests, retried_requests() - before
    run = run_ledger(run_folder(f"{root}/faulty", "run"))
    rows = [row for table in run.results() for row in table.to_pylist()]
    return Outcome(
        requests=requests,
        faults=dict(proxy.faults),
        retries=dict(retries),
        rows_in=size.rows,
        rows_out=len(rows),
        pairs=len({row["pair_id"] for row in rows}),
        statuses=dict(Counter(row["status"] for row in rows)),
        compared=count_compared(f"{root}/faulty"),
        differing=differences(f"{root}/quiet", f"{root}/faulty"),
    )


def _fill(folder: Folder, size: Size) -> None:
    photos = resources.files("demo") / "photos"
    for index in range(1, size.photos + 1):
        name = f"person-{index}.jpg"
        folder.write(f"photos/{name}", (photos / name).read_bytes())
    sink = io.BytesIO()
    np.save(sink, np.random.default_rng(0).normal(size=(LATENTS, NUM_WS, W_DIM)).astype("f4"))
    folder.write("w.npy", sink.getvalue())
    options = {"optimize": {"steps": 1}, "mapper": {"steps": 2, "mapper_type": "style_space"}}
    lines = ["target_prompt,method,num_channels,options"]
    for method, values in options.items():
        text = json.dumps(values).replace('"', '""')
        lines.append(f'a face by {method},{method},,"{text}"')
    lines += [f"a face number {i},global,20," for i in range(size.prompts - len(options))]
    folder.write("prompts.csv", "\n".join(lines).encode())


def _run(root: str, name: str, models: str, size: Size) -> None:
    workspace, prompts = f"{root}/{name}", f"{root}/prompts.csv"
    options: dict[str, Any] = {"relevance": _RELEVANCE, "shard_size": size.shard_size, "workers": 2}
    # Another arithmetic might be timed to be faster in one of both workspaces.
    options |= {"models": models, "device": "cpu", "arithmetic": "float32"}
    if size.photos:
        run_pipeline(f"{root}/photos", prompts, workspace, **options)
        return
    import_latents(workspace, f"{root}/w.npy", models=models, device="cpu")
    names, manifest = [f"w-{i:05d}" for i in range(LATENTS)], f"{workspace}/pairs.parquet"
    build_manifest(names, read_prompts(prompts), manifest)
    edit_dataset(workspace, manifest, **options)


@contextmanager
def s3_server() -> Iterator[str]:
    """Give the URL of an S3 API on loopback with an empty bucket, and this process keys for it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    os.environ.update(_KEYS, AWS_ENDPOINT_URL=url)  # noqa: TID251
    make_bucket(url)
    try:
        yield url
    finally:
        server.stop()


def make_bucket(url: str) -> None:
    """Make the bucket of this program."""
    boto3.client("s3", endpoint_url=url).create_bucket(Bucket=BUCKET)


def show(outcome: Outcome, seconds: float) -> int:
    """Print what came of it, and return how many checks failed."""
    counted = sum(outcome.retries.values())
    total = sum(outcome.faults.values())
    share = total / max(outcome.requests, 1)
    print(
        f"{outcome.requests:>8} requests in {seconds:.0f} s, {total} of them failed ({share:.1%})"
    )
    for kind, count in sorted(outcome.faults.items()):
        print(f"{count:>8} {kind}")
    print(f"{counted:>8} retries of the product, by what it saw")
    for kind, count in sorted(outcome.retries.items()):
        print(f"{count:>8} {kind}")
    print(f"{total - counted:>8} more by the HTTP client, which repeats once what a cut ended")
    compared = ", ".join(f"{count} {kind}" for kind, count in outcome.compared.items())
    print(f"{outcome.rows_in:>8} rows in, {outcome.rows_out} rows out: {dict(outcome.statuses)}")
    print(f"{len(outcome.differing):>8} differences to the undisturbed run ({compared} compared)")
    for line in outcome.differing[:10]:
        print(f"         {line}")
    failed = [name for name, passed in outcome.checks.items() if not passed]
    for name in failed:
        print(f"FAILED   {name}")
    print(f"faults: {len(outcome.checks) - len(failed)} passed, {len(failed)} failed")
    return len(failed)


def main() -> None:
    """Run the program."""
    end_server_with_command()
    parser = argparse.ArgumentParser(description="The pipeline on a store that fails requests.")
    parser.add_argument("--rate", type=float, default=0.1, help="share of requests that fail")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--photos", type=int, default=Size.photos, choices=range(9))
    parser.add_argument("--prompts", type=int, default=Size.prompts)
    parser.add_argument("--shard-size", type=int, default=Size.shard_size)
    parser.add_argument("--read-timeout", type=float, default=3.0, help="seconds")
    given = parser.parse_args()
    size, began = Size(given.photos, given.prompts, given.shard_size), time.monotonic()
    with (
        prefect_test_harness(server_startup_timeout=900),
        s3_server() as upstream,
        tempfile.TemporaryDirectory() as folder,
    ):
        models = write_small_bundle(Path(folder))
        timeout = given.read_timeout
        outcome = measure(upstream, models, size, given.rate, given.seed, timeout)
    sys.exit(1 if show(outcome, time.monotonic() - began) else 0)


if __name__ == "__main__":
    main()
