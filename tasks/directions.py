"""The direction store: how CLIP sees every style channel, computed once for each generator."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import zarr
from torch import Tensor
from zarr.core.common import AccessModeLiteral as AccessMode

from styleclip_ops.relevance import RelevanceMode, channel_clip_directions
from styleclip_ops.style_statistics import sample_style_codes, style_statistics
from tasks.ledger import Ledger
from tasks.models import Models, open_models
from tasks.provenance import CODE_VERSION
from tasks.storage import Folder, sha256
from tasks.zarr_reading import reading_zarr, sound_array

FORMAT, FORMAT_VERSION = "styleclip-directions", 1
STORE = "directions.zarr"

# What the ledger of a store plans, a block of channels a shard, and what it says of each block.
BLOCK_UNITS = pa.schema([("first", pa.int64()), ("count", pa.int64())])
BLOCKS = pa.schema([("first", pa.int64()), ("count", pa.int64()), ("silent", pa.int64())])


class DirectionStoreError(ValueError):
    """A direction store belongs to other networks, is unfinished, or has lost chunks."""


@dataclass(frozen=True)
class RelevanceConfig:
    """How the directions are measured (StyleCLIP, section 6.2).

    Attributes:
        num_images: Sample images that every channel is perturbed on; 100 published.
        num_statistics: Random faces for the mean and deviation of S; 100,000 published.
        step: Perturbation in standard deviations.
        mode: exact renders every perturbation; fast takes slopes, about ten times quicker and
            nearly the same; published does as the release, on 8-bit images.
        seed: Of the sample images and the statistics.
    """

    num_images: int = 100
    num_statistics: int = 100_000
    step: float = 5.0
    mode: RelevanceMode = "exact"
    seed: int = 5

    def __post_init__(self) -> None:
        if self.num_images < 1 or self.num_statistics < 2 or not self.step > 0:
            raise DirectionStoreError(
                f"relevance: got {self.num_images} images, {self.num_statistics} samples, step "
                f"{self.step}, expected at least 1, at least 2, above 0"
            )


@dataclass(frozen=True)
class Directions:
    """What a finished store holds.

    Attributes:
        channel_mean, channel_std: [layout.size] float32.
        channel_clip_directions: [C, E] float32 for the editable channels, unit norm.
        fingerprint: 16 hexadecimal digits that name the content.
    """

    channel_mean: Tensor
    channel_std: Tensor
    channel_clip_directions: Tensor
    fingerprint: str


class DirectionStore:
    """The directions of a generator and a CLIP, measured in one way.

    Args:
        folder: Of the store, with its ledger.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.ledger = Ledger(folder, BLOCKS)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What binds the store to networks, settings and code."""
        with self._reading():
            return dict(self._group("r").attrs)

    @property
    def exists(self) -> bool:
        """Whether statistics and plans are written."""
        return (self.folder / STORE).exists("zarr.json") and "complete" in self.attributes

    def create(self, models: Models, config: RelevanceConfig, block_size: int) -> None:
        """Write the statistics and plan the blocks, if that is not done.

        Args:
            models: The networks.
            config: How to measure.
            block_size: Channels of a shard.
        """
        if self.exists:
            return
        generator = models.generator
        statistics = style_statistics(generator, config.num_statistics, seed=config.seed)
        editable = len(generator.layout.editable_channels)
        group = self._group("a")
        for name, values in (
            ("channel_mean", statistics.mean),
            ("channel_std", statistics.std),
        ):
            array = group.require_array(name, shape=values.shape, dtype="float32")
            array[:] = values.cpu().numpy()
        shape = (editable, models.clip.embedding_dim)
        group.require_array(
            "channel_clip_directions",
            shape=shape,
            chunks=(block_size, shape[1]),
            dtype="float32",
            fill_value=np.nan,
        )
        # One backward pass gives all channels: parts would each cost as much as the whole.
        block = editable if config.mode == "fast" else block_size
        for shard, first in enumerate(range(0, editable, block)):
            row = {"first": first, "count": min(block, editable - first)}
            self.ledger.plan_shard(shard, pa.Table.from_pylist([row], BLOCK_UNITS))
        marks: dict[str, Any] = (
            {"format": FORMAT, "version": FORMAT_VERSION, "code_version": CODE_VERSION}
            | _binding(models)
            | asdict(config)
            | {"complete": True}
        )
        group.attrs.update(marks)

    def channel_std(self) -> Tensor:
        """Return the standard deviation of every style channel, [layout.size]."""
        return torch.from_numpy(np.asarray(self._array("channel_std", "r")[:]))

    def write(self, shard: int, directions: Tensor) -> None:
        """Write the directions [count, E] of a block."""
        first = self.ledger.units(shard)["first"][0].as_py()
        array = self._array("channel_clip_directions", "r+")
        array[first : first + len(directions)] = directions.cpu().numpy()

    def read(self) -> Directions:
        """Read a finished store.

        Raises:
            DirectionStoreError: It is not finished, or a chunk is lost.
        """
        pending = self.ledger.pending() if self.exists else [-1]
        if pending:
            raise DirectionStoreError(
                f"{self.folder.url}: got a store that is not finished, expected all channels; "
                "run `styleclip relevance` to its end"
            )
        axes = {"channel_mean": 1, "channel_std": 1, "channel_clip_directions": 2}
        with self._reading():
            group = self._group("r")
            values = [np.asarray(sound_array(group, name, n)[:]) for name, n in axes.items()]
        if not all(np.isfinite(array).all() for array in values):
            raise DirectionStoreError(
                f"{self.folder.url}/{STORE}: got NaN, expected numbers; a chunk is lost: remove "
                "the commit of its block and run `styleclip relevance` again"
            )
        digest = sha256(b"".join(array.tobytes() for array in values))
        mean, std, directions = map(torch.from_numpy, values)
        return Directions(mean, std, directions, digest[:16])

    def _reading(self) -> AbstractContextManager[None]:
        url = f"{self.folder.url}/{STORE}"
        remedy = "restore it, or remove the store and its ledger to measure again"
        return reading_zarr(url, DirectionStoreError, remedy)

    def _group(self, mode: AccessMode) -> zarr.Group:
        return zarr.open_group(self.folder.zarr_store(STORE), mode=mode)

    def _array(self, name: str, mode: AccessMode) -> Any:
        return self._group(mode)[name]


def direction_folder(workspace: Folder, models: Models, config: RelevanceConfig) -> Folder:
    """Return where the directions of a generator and a CLIP are in a workspace."""
    key = json.dumps(_binding(models) | asdict(config), sort_keys=True)
    return workspace / "directions" / sha256(key.encode())[:16]


def plan_relevance(
    workspace: str, models: str, device: str, config: RelevanceConfig, block_size: int
) -> list[int]:
    """Write the statistics of S and plan the blocks of channels.

    Args:
        workspace: URL of the workspace.
        models: URL of the bundle.
        device: See `tasks.models.open_models`.
        config: How to measure.
        block_size: Channels of a shard.

    Returns:
        Shards to compute.
    """
    networks = open_models(models, device)
    store = DirectionStore(direction_folder(Folder(workspace), networks, config))
    store.create(networks, config, block_size)
    return store.ledger.pending()


def compute_relevance_shard(
    workspace: str,
    models: str,
    device: str,
    config: RelevanceConfig,
    shard: int,
    batch_size: int,
) -> dict[str, int]:
    """Measure the directions of one block of channels and commit them.

    Args:
        workspace: URL of the workspace.
        models: URL of the bundle.
        device: See `tasks.models.open_models`.
        config: How to measure.
        shard: Its number.
        batch_size: Images that go through the networks together.

    Returns:
        Channels that move CLIP, and channels that do not.
    """
    networks = open_models(models, device)
    store = DirectionStore(direction_folder(Folder(workspace), networks, config))
    unit = store.ledger.units(shard).to_pylist()[0]
    generator = networks.generator
    channels = generator.layout.editable_channels[unit["first"] : unit["first"] + unit["count"]]
    codes = sample_style_codes(generator, config.num_images, seed=config.seed)
    directions = channel_clip_directions(
        generator,
        networks.clip,
        torch.cat(list(codes)),
        store.channel_std(),
        channels,
        config.step,
        config.mode,
        batch_size=batch_size,
    )
    store.write(shard, directions)
    silent = int((directions.norm(dim=1) == 0).sum())
    store.ledger.commit(shard, pa.Table.from_pylist([unit | {"silent": silent}], BLOCKS))
    return {"moving": len(directions) - silent, "silent": silent}


def _binding(models: Models) -> dict[str, str]:
    return {f"{role}_fingerprint": models.fingerprint(role) for role in ("generator", "clip")}
