"""The direction store: how CLIP sees every style channel, computed once for each generator."""

import json
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
import zarr
from numpy.typing import NDArray
from torch import Tensor
from zarr.core.common import AccessModeLiteral as AccessMode

from styleclip_ops.errors import check_integers
from styleclip_ops.relevance import (
    CHECK_IMAGES,
    ChannelSums,
    SlopeCheck,
    check_slopes,
    sum_channel_directions,
)
from styleclip_ops.style_statistics import sample_style_codes, style_statistics
from tasks.models import Models, open_models
from tasks.places import DIRECTION_STORES
from tasks.provenance import CODE_VERSION
from tasks.store.arrays import create_arrays, create_group, open_array
from tasks.store.folders import Folder, sha256
from tasks.store.ledger import Ledger
from tasks.store.zarr_reading import reading_zarr, sound_array

FORMAT, FORMAT_VERSION = "styleclip-directions", 2
STORE = "directions.zarr"
# Images that go through the networks together where nothing else is asked for.
RELEVANCE_BATCH = 16
# About how many shards there are where nothing else is asked for.
_SHARDS = 32
_CHUNK_CHANNELS = 512

# Work on a store, in this order: images of the mode fast that are rendered wholly; sums over the
# others; the directions, from all sums.
CHECK, MEASURE, COMBINE = "check", "measure", "combine"
# What the ledger of a store plans, a block of sample images a shard.
BLOCKS = pa.schema([("work", pa.string()), ("first", pa.int64()), ("count", pa.int64())])


class DirectionStoreError(ValueError):
    """A direction store belongs to other networks, is unfinished, or has lost chunks."""


@dataclass(frozen=True)
class RelevanceConfig:
    """How the directions are measured (StyleCLIP, section 6.2).

    Attributes:
        num_images: Sample faces to measure on; fewer are faster, 100 published.
        num_statistics: Random faces for the mean and deviation of S; 100,000 published.
        step: Perturbation in standard deviations.
        mode: exact renders every perturbation; fast renders what gradients do not predict,
            and tells its accuracy; published does as the release, on 8-bit images; imported
            measures nothing and takes what `styleclip latents import-directions` wrote.
        seed: Of the sample images and the statistics.
    """

    num_images: int = 100
    num_statistics: int = 100_000
    step: float = 5.0
    mode: Literal["exact", "fast", "published", "imported"] = "fast"
    seed: int = 5

    def __post_init__(self) -> None:
        if self.num_images < 1 or self.num_statistics < 2 or not 0 < self.step < math.inf:
            raise DirectionStoreError(
                f"relevance: got {self.num_images} images, {self.num_statistics} samples, step "
                f"{self.step}, expected at least 1, at least 2, above 0"
            )
        # Of numpy's generator.
        check_integers(0, 2**32 - 1, seed=self.seed)
        # Equal settings have one address.
        object.__setattr__(self, "step", float(self.step))


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
    def config(self) -> RelevanceConfig:
        """How they are measured."""
        return _config_of(self.attributes)

    @property
    def exists(self) -> bool:
        """Whether plans and statistics are written: the group's attributes come last."""
        return (self.folder / STORE).exists("zarr.json")

    def create(
        self,
        models: Models,
        config: RelevanceConfig,
        shard_size: int | None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Write the statistics and plan the blocks, if that is not done.

        Args:
            models: The networks.
            config: How to measure.
            shard_size: Sample images of a shard; such that there are about 32 where None.
            on_progress: Told how many faces the statistics have.
        """
        if self.exists:
            return
        generator, blocks = models.generator, plan_blocks(config, shard_size)
        planned = map(self.unit, self.ledger.plans())
        begun = [unit["count"] for unit in planned if unit["work"] == MEASURE]
        if begun:
            blocks = plan_blocks(config, max(begun))
        for shard, block in enumerate(blocks):
            self.ledger.plan_shard(shard, pa.Table.from_pylist([block], BLOCKS))
        statistics = style_statistics(
            generator, config.num_statistics, seed=config.seed, on_progress=on_progress
        )
        editable, width = len(generator.layout.editable_channels), models.clip.embedding_dim
        checks = sum(block["work"] == CHECK for block in blocks)

        def build(group: zarr.Group) -> None:
            for name, values in statistics._asdict().items():
                array = group.create_array(
                    f"channel_{name}",
                    shape=tuple(values.shape),
                    dtype="float32",
                    fill_value=np.nan,
                    dimension_names=("channel",),
                )
                array[:] = values.cpu().numpy()
            create = partial(group.create_array, dtype="float32", fill_value=np.nan)
            create(
                "channel_clip_directions",
                shape=(editable, width),
                chunks=(min(editable, _CHUNK_CHANNELS), width),
                dimension_names=("editable_channel", "clip"),
            )
            if len(blocks) > 1:
                create(
                    "direction_sums",
                    shape=(len(blocks) - 1, editable, width),
                    chunks=(1, min(editable, _CHUNK_CHANNELS), width),
                    dimension_names=("shard", "editable_channel", "clip"),
                )
            if checks:
                create(
                    "slope_agreement",
                    shape=(checks, editable),
                    chunks=(1, editable),
                    dimension_names=("image", "editable_channel"),
                )

        create_arrays(self.folder, STORE, build)
        marks = {"format": FORMAT, "version": FORMAT_VERSION, "code_version": CODE_VERSION}
        create_group(self.folder, STORE, marks | _binding(models) | asdict(config))

    def channel_std(self) -> Tensor:
        """Return the standard deviation of every style channel, [layout.size]."""
        with self._reading():
            values = np.asarray(sound_array(self._array("channel_std", "r"), 1)[:])
        self._require_finite(values)
        return torch.from_numpy(values)

    def pending(self, work: str) -> list[int]:
        """Return the shards of a kind of work that are not committed, ascending."""
        return [shard for shard in self.ledger.pending() if self.unit(shard)["work"] == work]

    def unit(self, shard: int) -> dict[str, Any]:
        """Return what a shard is: its work, and its first sample image and their number."""
        return dict(self.ledger.units(shard).to_pylist()[0])

    def slope_check(self) -> SlopeCheck:
        """Return what the images of the mode fast tell that were rendered wholly.

        Raises:
            DirectionStoreError: They are not all checked.
        """
        checks = self._checks()
        missing = [shard for shard in checks if not self.ledger.is_committed(shard)]
        if missing:
            raise DirectionStoreError(
                f"{self.folder.url}: got {len(missing)} images that are not checked yet, expected "
                "none; run `styleclip relevance`, with `--worker prepare` where there are several"
            )
        with self._reading():
            agreements = np.asarray(self._array("slope_agreement", "r")[:])
        self._require_finite(agreements)
        totals = [torch.from_numpy(self._sum(shard)) for shard in checks]
        return check_slopes([*map(ChannelSums, totals, torch.from_numpy(agreements))])

    def write(self, shard: int, total: Tensor, agreement: Tensor | None = None) -> str:
        """Write what a shard measured, and return its sha256.

        Args:
            shard: Its number.
            total: [C, E] the sum of its images; of the last shard the directions.
            agreement: [C] of a shard that checks.
        """
        unit, numbers = self.unit(shard), total.cpu().numpy()
        if unit["work"] == COMBINE:
            self._array("channel_clip_directions", "r+")[:] = numbers
            return sha256(numbers.tobytes())
        if agreement is not None:
            self._array("slope_agreement", "r+")[unit["first"]] = agreement.cpu().numpy()
        self._array("direction_sums", "r+")[shard] = numbers
        return sha256(numbers.tobytes())

    def digest(self, shard: int) -> str:
        """Return the sha256 of the numbers of a shard, as `write` did and its commit has it."""
        if self.unit(shard)["work"] == COMBINE:
            return sha256(np.asarray(self._array("channel_clip_directions", "r")[:]).tobytes())
        return sha256(self._sum(shard).tobytes())

    def combine(self) -> dict[str, int]:
        """Make the directions of the sums, where all of these are committed and they are not.

        Returns:
            Channels that move CLIP, and channels that do not; nothing where that was done, or
            other processes are still measuring.

        Raises:
            DirectionStoreError: Sums are not those that were committed, or directions were to be
                imported and are not.
        """
        pending = self.ledger.pending()
        if len(pending) != 1 or self.unit(pending[0])["work"] != COMBINE:
            return {}
        (last,) = pending
        if not last:
            raise _not_imported(self.folder)
        total = np.float32(0)
        for shard in range(last):
            numbers = self._sum(shard)
            if sha256(numbers.tobytes()) != self.ledger.read_commit(shard).facts["sha256"]:
                raise DirectionStoreError(
                    f"{self.folder.url}/{STORE}: got other sums than shard {shard} committed; "
                    f"remove the commit of shard {shard} and run `styleclip relevance` again"
                )
            total = total + numbers
        directions = F.normalize(torch.from_numpy(np.asarray(total)), dim=1)
        silent = int((directions.norm(dim=1) == 0).sum())
        facts = _accuracy(self.slope_check()) if len(self._checks()) > 1 else {}
        # With a clock of its own: that of this store has counted the shards.
        DirectionStore(self.folder).commit(last, directions, facts=facts)
        return {"channels that move CLIP": len(directions) - silent, "channels that do not": silent}

    def commit(
        self,
        shard: int,
        total: Tensor,
        agreement: Tensor | None = None,
        facts: Mapping[str, object] | None = None,
    ) -> bool:
        """Write what a shard measured, see `write`, and commit it with facts about it.

        Returns:
            Whether this counts, and not what another process committed.
        """
        write, table = partial(self.write, shard, total, agreement), self.ledger.units(shard)
        digest = partial(self.digest, shard)
        commit = self.ledger.commit_stored(shard, table, write(), digest, write, facts)
        return self.ledger.wrote(commit)

    @property
    def fidelity(self) -> float | None:
        """Estimated mean cosine of what the mode fast found to the mode exact; None of others."""
        last = max(self.ledger.plans())
        if not self.ledger.is_committed(last):
            return None
        found = self.ledger.read_commit(last).facts.get("fidelity")
        return None if found is None else float(str(found))

    def require_import(self) -> None:
        """See that directions were imported into this store.

        Raises:
            DirectionStoreError: They were not, or not to the end.
        """
        if not self.exists or self.ledger.pending():
            raise _not_imported(self.folder)

    def read(self) -> Directions:
        """Read a finished store.

        Raises:
            DirectionStoreError: It is not finished, or a chunk is lost.
        """
        if not self.exists:
            raise DirectionStoreError(
                f"{self.folder.url}: got a folder without directions, expected a direction store; "
                "`styleclip relevance` makes one"
            )
        if self.ledger.pending():
            raise DirectionStoreError(
                f"{self.folder.url}: got a store that is not finished, expected all channels; "
                "run `styleclip relevance` to its end"
            )
        axes = {"channel_mean": 1, "channel_std": 1, "channel_clip_directions": 2}
        with self._reading():
            arrays = [sound_array(self._array(name, "r"), n) for name, n in axes.items()]
            values = [np.asarray(array[:]) for array in arrays]
        self._require_finite(*values)
        digest = sha256(b"".join(array.tobytes() for array in values))
        mean, std, directions = map(torch.from_numpy, values)
        return Directions(mean, std, directions, digest[:16])

    def _require_finite(self, *arrays: NDArray[np.float32]) -> None:
        if not all(np.isfinite(array).all() for array in arrays):
            raise DirectionStoreError(
                f"{self.folder.url}/{STORE}: got NaN, expected numbers; a chunk is lost: restore "
                f"it from a copy, or remove {self.folder.url} and give {self._maker()}"
            )

    def _checks(self) -> list[int]:
        """The shards that check; they were planned first."""
        first = self.ledger.plans()[:CHECK_IMAGES]
        return [shard for shard in first if self.unit(shard)["work"] == CHECK]

    def _sum(self, shard: int) -> Any:
        with self._reading():
            return np.asarray(self._array("direction_sums", "r")[shard])

    def _maker(self) -> str:
        """What makes the store again, as far as it still says how it was made."""
        options = "the options that it was measured with"
        with suppress(DirectionStoreError, KeyError):
            options = relevance_options(self.config)
        return f"`styleclip relevance` with {options}"

    def _reading(self) -> AbstractContextManager[None]:
        url = f"{self.folder.url}/{STORE}"
        remedy = (
            f"restore it from a copy, or remove {self.folder.url} to measure again, with the same "
            "options"
        )
        return reading_zarr(url, DirectionStoreError, remedy)

    def _array(self, name: str, mode: AccessMode) -> Any:
        return open_array(self.folder, f"{STORE}/{name}", mode)


def direction_folder(workspace: Folder, models: Models, config: RelevanceConfig) -> Folder:
    """Return where the directions of a generator and a CLIP are in a workspace."""
    key = json.dumps(
        _binding(models) | asdict(config) | {"version": FORMAT_VERSION}, sort_keys=True
    )
    return workspace / DIRECTION_STORES / sha256(key.encode())[:16]


def measured_otherwise(
    workspace: Folder, models: Models, config: RelevanceConfig
) -> dict[str, str]:
    """Find directions of the same networks that were measured with other settings.

    Args:
        workspace: Where to look.
        models: The networks.
        config: The settings that are asked for.

    Returns:
        By URL of each store that is complete, the options of the command line that ask for it.
    """
    asked = direction_folder(workspace, models, config).url
    return {
        url: relevance_options(measured)
        for url, measured in _measured(workspace, models).items()
        if url != asked
    }


def relevance_options(config: RelevanceConfig) -> str:
    """Return the options of the command line that ask for directions measured so."""
    usual, values = asdict(RelevanceConfig()), asdict(config)
    differing = {key: value for key, value in values.items() if value != usual[key]}
    words = [f"--{key.replace('_', '-')} {value}" for key, value in differing.items()]
    return " ".join(words) or "no options"


def begun_relevance(
    workspace: Folder, models: Models, begun: str, noted: Mapping[str, Any]
) -> RelevanceConfig | None:
    """Return how the directions that a run was begun with were measured, also if they are lost.

    Args:
        workspace: Where to look.
        models: The networks.
        begun: URL of the directions, empty where the run has none.
        noted: What the run noted of it; earlier ones noted nothing.

    Returns:
        None where the run has none of these networks, or it is not known.
    """
    known = [_config_of(noted)] if noted else []
    known += _measured(workspace, models).values()
    # By its name, which says how it was measured: one workspace may have several addresses.
    name = Folder(begun).name if begun else ""
    same = (one for one in known if direction_folder(workspace, models, one).name == name)
    return next(same, None)


def choose_relevance(
    workspace: Folder,
    models: Models,
    asked: RelevanceConfig | None,
    begun: RelevanceConfig | None = None,
) -> RelevanceConfig:
    """Return how the directions of edits are measured.

    Args:
        workspace: Where to look for directions.
        models: The networks.
        asked: What is asked for; None for what is there.
        begun: How those of the run were measured, if it has some.

    Returns:
        What is asked for. If nothing is: as for the run; as usual, if those are
            complete; as for the complete directions of most images, imported ones where none were
            measured; as usual if there are none.
    """
    if asked is not None:
        return asked
    if begun is not None:
        return begun
    measured = _measured(workspace, models)
    usual = RelevanceConfig()
    if usual in measured.values():
        return usual
    return max(
        measured.values(),
        key=lambda config: (config.mode != "imported", config.num_images),
        default=usual,
    )


def _measured(workspace: Folder, models: Models) -> dict[str, RelevanceConfig]:
    """How the complete directions of some networks were measured, by URL."""
    found = dict[str, RelevanceConfig]()
    for name in (workspace / DIRECTION_STORES).names():
        store = DirectionStore(workspace / DIRECTION_STORES / name)
        if store.exists and not store.ledger.pending():
            facts = store.attributes
            if _binding(models).items() <= facts.items():
                found[store.folder.url] = store.config
    return found


def _config_of(facts: Mapping[str, Any]) -> RelevanceConfig:
    return RelevanceConfig(**{field.name: facts[field.name] for field in fields(RelevanceConfig)})


def plan_blocks(config: RelevanceConfig, shard_size: int | None = None) -> list[dict[str, Any]]:
    """Return the units of all shards of a store: checked images one by one, blocks, and the end.

    Args:
        config: How to measure.
        shard_size: Sample images of a shard; such that there are about 32 where None.

    Raises:
        DirectionStoreError: The size of blocks is not positive.
    """
    count = config.num_images
    if shard_size is None:
        shard_size = math.ceil(count / _SHARDS)
    if shard_size < 1:
        raise DirectionStoreError(f"shard_size: got {shard_size}, expected at least 1")
    end = {"work": COMBINE, "first": 0, "count": count}
    if config.mode == "imported":
        return [end]
    checks = min(CHECK_IMAGES, count) if config.mode == "fast" else 0
    units: list[dict[str, Any]] = [
        {"work": CHECK, "first": image, "count": 1} for image in range(checks)
    ]
    for first in range(checks, count, shard_size):
        size = min(shard_size, count - first)
        units.append({"work": MEASURE, "first": first, "count": size})
    return [*units, end]


def plan_relevance(
    workspace: str,
    models: str,
    device: str,
    config: RelevanceConfig,
    shard_size: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> DirectionStore:
    """Write the statistics of S and plan the blocks of sample images.

    Args:
        workspace: URL of the workspace.
        models: URL of the bundle.
        device: See `tasks.models.open_models`.
        config: How to measure.
        shard_size: Sample images of a shard; such that there are about 32 where None.
        on_progress: Told how many faces the statistics have.

    Returns:
        The store.

    Raises:
        DirectionStoreError: The size of blocks is not positive, or directions were to be imported
            and are not.
    """
    networks = open_models(models, device)
    store = DirectionStore(direction_folder(Folder(workspace), networks, config))
    if config.mode == "imported":
        store.require_import()
    store.create(networks, config, shard_size, on_progress)
    return store


def compute_relevance_shard(
    workspace: str,
    models: str,
    device: str,
    config: RelevanceConfig,
    shard: int,
    batch_size: int,
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, int]:
    """Measure all channels on one block of sample images and commit their sums.

    Args:
        workspace: URL of the workspace.
        models: URL of the bundle.
        device: See `tasks.models.open_models`.
        config: How to measure.
        shard: Its number.
        batch_size: Images that go through the networks together.
        on_progress: Told which share of the block is done, 0 to 1.

    Returns:
        The images that were measured; nothing where another process committed the block.

    Raises:
        DirectionStoreError: The images of the mode fast that come first are not checked yet.
    """
    networks = open_models(models, device)
    store = DirectionStore(direction_folder(Folder(workspace), networks, config))
    if store.ledger.is_committed(shard):
        return {}
    if config.mode == "imported":
        raise _not_imported(store.folder)
    unit = store.unit(shard)
    has_check = config.mode == "fast" and unit["work"] == MEASURE
    check = store.slope_check() if has_check else None
    codes = torch.cat(
        [*sample_style_codes(networks.generator, config.num_images, seed=config.seed)]
    )
    sums = sum_channel_directions(
        *(networks.generator, networks.clip),
        codes[unit["first"] : unit["first"] + unit["count"]],
        store.channel_std(),
        step=config.step,
        mode=config.mode,
        channel_mean=codes.mean(dim=0) if config.mode == "published" else None,
        batch_size=batch_size,
        check=check,
        on_progress=on_progress,
    )
    if store.ledger.is_committed(shard):
        return {}
    return {"images": unit["count"]} if store.commit(shard, *sums) else {}


def _not_imported(folder: Folder) -> DirectionStoreError:
    return DirectionStoreError(
        f"{folder.url}: got no imported directions of these networks and settings, expected some "
        "for the mode imported; give fs3.npy to `styleclip latents import-directions`, or choose "
        "a mode that measures"
    )


def _accuracy(check: SlopeCheck) -> dict[str, object]:
    """How near the mode fast comes, and what it saves."""
    return {
        "fidelity": check.fidelity,
        "rendered_channels": int(check.curved.sum()),
        "slopes_of_an_image": len(check.basis),
    }


def _binding(models: Models) -> dict[str, str]:
    return models.marks("generator", "clip")
