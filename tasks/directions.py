"""The direction store: how CLIP sees every style channel, computed once for each generator."""

import json
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
import zarr
from torch import Tensor
from zarr.core.common import AccessModeLiteral as AccessMode

from styleclip_ops.relevance import ChannelSums, RelevanceMode, channel_clip_directions
from styleclip_ops.style_statistics import sample_style_codes, style_statistics
from tasks.arrays import create_arrays, create_group, open_array
from tasks.ledger import Ledger
from tasks.models import Models, open_models
from tasks.provenance import CODE_VERSION
from tasks.storage import Folder, sha256
from tasks.zarr_reading import reading_zarr, sound_array

FORMAT, FORMAT_VERSION = "styleclip-directions", 1
STORE = "directions.zarr"
# Of blocks that are being measured, and how often they are written.
CHECKPOINTS = "checkpoints"
CHECKPOINT_SECONDS = 60.0

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
        mode: exact renders every perturbation; fast renders those that slopes do not foretell, and
            tells how near it comes; published does as the release, on 8-bit images.
        seed: Of the sample images and the statistics.
    """

    num_images: int = 100
    num_statistics: int = 100_000
    step: float = 5.0
    mode: RelevanceMode = "fast"
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
            return dict(zarr.open_group(self.folder.zarr_store(STORE), mode="r").attrs)

    @property
    def exists(self) -> bool:
        """Whether plans and statistics are written: the group's attributes come last."""
        return (self.folder / STORE).exists("zarr.json")

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
        editable = len(generator.layout.editable_channels)
        # One backward pass gives all channels: parts would each cost as much as the whole.
        block = editable if config.mode == "fast" else block_size
        if self.ledger.plans():
            block = self.ledger.units(0)["count"][0].as_py()
        for shard, first in enumerate(range(0, editable, block)):
            row = {"first": first, "count": min(block, editable - first)}
            self.ledger.plan_shard(shard, pa.Table.from_pylist([row], BLOCK_UNITS))
        statistics = style_statistics(generator, config.num_statistics, seed=config.seed)

        def build(group: zarr.Group) -> None:
            for name, values in statistics._asdict().items():
                data, axes = values.cpu().numpy(), ("channel",)
                group.create_array(f"channel_{name}", data=data, dimension_names=axes)
            group.create_array(
                "channel_clip_directions",
                shape=(editable, models.clip.embedding_dim),
                chunks=(block, models.clip.embedding_dim),
                dtype="float32",
                fill_value=np.nan,
                dimension_names=("editable_channel", "clip"),
            )

        create_arrays(self.folder, STORE, build)
        marks = {"format": FORMAT, "version": FORMAT_VERSION, "code_version": CODE_VERSION}
        create_group(self.folder, STORE, marks | _binding(models) | asdict(config))

    def channel_std(self) -> Tensor:
        """Return the standard deviation of every style channel, [layout.size]."""
        return torch.from_numpy(np.asarray(self._array("channel_std", "r")[:]))

    def write(self, shard: int, directions: Tensor) -> str:
        """Write the directions [count, E] of a block, and return their sha256."""
        numbers = directions.cpu().numpy()
        self._array("channel_clip_directions", "r+")[self._span(shard)] = numbers
        return sha256(numbers.tobytes())

    def digest(self, shard: int) -> str:
        """Return the sha256 of the numbers of a block, as `write` did and its commit has it."""
        numbers = self._array("channel_clip_directions", "r")[self._span(shard)]
        return sha256(np.asarray(numbers).tobytes())

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
            arrays = [sound_array(self._array(name, "r"), n) for name, n in axes.items()]
            values = [np.asarray(array[:]) for array in arrays]
        if not all(np.isfinite(array).all() for array in values):
            raise DirectionStoreError(
                f"{self.folder.url}/{STORE}: got NaN, expected numbers; a chunk is lost: remove "
                "the commit of its block and run `styleclip relevance` again"
            )
        digest = sha256(b"".join(array.tobytes() for array in values))
        mean, std, directions = map(torch.from_numpy, values)
        return Directions(mean, std, directions, digest[:16])

    def _span(self, shard: int) -> slice:
        unit = self.ledger.units(shard).to_pylist()[0]
        return slice(unit["first"], unit["first"] + unit["count"])

    def _reading(self) -> AbstractContextManager[None]:
        url = f"{self.folder.url}/{STORE}"
        remedy = "restore it, or remove the store and its ledger to measure again"
        return reading_zarr(url, DirectionStoreError, remedy)

    def _array(self, name: str, mode: AccessMode) -> Any:
        return open_array(self.folder, f"{STORE}/{name}", mode)


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

    A block is the unit of work; within one, a stopped measurement goes on after the last image that
    a checkpoint has, to the same numbers.

    Args:
        workspace: URL of the workspace.
        models: URL of the bundle.
        device: See `tasks.models.open_models`.
        config: How to measure.
        shard: Its number.
        batch_size: Images that go through the networks together.

    Returns:
        Channels that move CLIP, and channels that do not; nothing where another process
        committed the block.
    """
    networks = open_models(models, device)
    store = DirectionStore(direction_folder(Folder(workspace), networks, config))
    if store.ledger.is_committed(shard):
        return {}
    unit = store.ledger.units(shard).to_pylist()[0]
    checkpoint = _Checkpoint(store.folder / CHECKPOINTS, shard)
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
        begun=checkpoint.read(networks.device),
        on_image=checkpoint.offer,
    )
    silent = int((directions.norm(dim=1) == 0).sum())
    if not store.ledger.is_committed(shard):
        write = partial(store.write, shard, directions)
        table = pa.Table.from_pylist([unit | {"silent": silent}], BLOCKS)
        store.ledger.commit_stored(
            shard, table, write(), partial(store.digest, shard), write, checkpoint.facts()
        )
    checkpoint.remove()
    return {"moving": len(directions) - silent, "silent": silent}


class _Checkpoint:
    """How far a block is, written once in a while: in the mode fast, a block is all channels."""

    def __init__(self, folder: Folder, shard: int) -> None:
        self._folder, self._name = folder, f"shard-{shard:05d}.safetensors"
        self._wrote = time.monotonic()
        self._sums: ChannelSums | None = None

    def read(self, device: torch.device) -> ChannelSums | None:
        try:
            content = self._folder.read(self._name)
        except FileNotFoundError:
            return None
        saved = {name: value.to(device) for name, value in safetensors.torch.load(content).items()}
        self._sums = ChannelSums(int(saved["images"]), saved["total"], saved.get("agreement"))
        return self._sums

    def facts(self) -> dict[str, object]:
        """How near the mode fast came, for the record of the block."""
        if self._sums is None or self._sums.fidelity is None:
            return {}
        return {"fidelity": self._sums.fidelity, "rendered_channels": self._sums.rendered}

    def offer(self, sums: ChannelSums) -> None:
        self._sums = sums
        if time.monotonic() - self._wrote < CHECKPOINT_SECONDS:
            return
        values = {"images": torch.tensor(sums.images), "total": sums.total.cpu().contiguous()}
        if sums.agreement is not None:
            values["agreement"] = sums.agreement.cpu()
        self._folder.write(self._name, safetensors.torch.save(values))
        self._wrote = time.monotonic()

    def remove(self) -> None:
        self._folder.remove(self._name)


def _binding(models: Models) -> dict[str, str]:
    return {f"{role}_fingerprint": models.fingerprint(role) for role in ("generator", "clip")}
