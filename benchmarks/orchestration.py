"""What Prefect, manifests and commits take of a run of edits at 1,000 rows a shard.

The same flow runs with a stand-in for the networks that fills rows with numbers and makes no image,
against the bare forwards of as many rows (a few batches of them, scaled).
"""

import dataclasses
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from unittest import mock

import torch

from benchmarks.edits import BATCH, bare
from benchmarks.endurance.volume import _dummy_edit, _prepare
from benchmarks.paired import Ratio, compare
from flows.edit import edit_dataset
from flows.embedded_server import end_server_with_command
from flows.manifest_commands import build_edit_manifest
from styleclip_ops.style_statistics import sample_style_codes
from tasks.bundles import DEMO_MODELS
from tasks.directions import RelevanceConfig
from tasks.edits import Editor
from tasks.models import open_models

SHARDS, SHARD = 20, 1_000
# Of forwards, which are alike.
BATCHES = 4
_RELEVANCE = RelevanceConfig(num_images=1, num_statistics=50, mode="fast")


def run(pairs: int = 3) -> Iterator[Ratio]:
    """Compare the time of the forwards with that of all around them: 50 is a share of 2 %."""
    networks = open_models(DEMO_MODELS, "cpu")
    (codes,) = sample_style_codes(networks.generator, BATCH, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        _prepare(Path(folder), SHARDS * SHARD)
        build_edit_manifest(
            f"{folder}/ws",
            f"{folder}/edits.parquet",
            target=[f"a face with hat number {i}" for i in range(5)],
            alpha=[2.0, 4.0],
        )
        name = f"{SHARDS * SHARD:,} rows: forwards by Prefect, manifest and commits (50 is 2 %)"
        around = partial(_edit_without_networks, folder, count())
        ratio = compare(
            name, around, partial(bare, networks, [codes] * BATCHES), pairs, same_memory=True
        )
    times = SHARDS * SHARD / (BATCHES * BATCH)
    scaled = {key: getattr(ratio, key) * times for key in ("median", "low", "high")}
    yield dataclasses.replace(ratio, **scaled)


def _edit_without_networks(folder: str, runs: Iterator[int]) -> None:
    with mock.patch.object(Editor, "edit", _dummy_edit):
        edit_dataset(
            f"{folder}/ws",
            f"{folder}/edits.parquet",
            run=f"run-{next(runs)}",
            models=f"{folder}/bundle.json",
            relevance=_RELEVANCE,
            device="cpu",
            shard_size=SHARD,
        )


if __name__ == "__main__":
    end_server_with_command()
    torch.set_num_threads(1)
    for found in run():
        print(f"{found.name}: {found.median:.0f} ({found.low:.0f} to {found.high:.0f})")
        print(f"share: {1 / found.median:.1%}; {found.ours_s / SHARDS:.2f} s a shard")
