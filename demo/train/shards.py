"""Rendered portraits on disk: memory-mapped pictures with their parameter vectors, in shards."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import demo.portraits
from demo.train.files import replacing


@dataclass(frozen=True)
class SeriesConfig:
    """Name an endless series of rendered portraits.

    Attributes:
        seed: The series of `demo.portraits.sampling.sample_portraits`.
        size: Side in pixels.
        shard: Portraits in a shard; shard i holds portraits i * shard and on.
    """

    seed: int
    size: int = 64
    shard: int = 512

    def __post_init__(self) -> None:
        if self.size < 32 or self.size & (self.size - 1):
            raise ValueError(f"size: got {self.size} px, expected a power of two from 32")
        if self.shard < 1:
            raise ValueError(f"shard: got {self.shard} portraits, expected at least 1")


def renderer_fingerprint() -> str:
    """Return eight hexadecimal digits that name the source of the renderer."""
    digest = hashlib.sha256()
    for path in sorted(Path(demo.portraits.__path__[0]).glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def open_series(folder: Path, config: SeriesConfig) -> None:
    """Make `folder` the home of a series, or check that it is.

    Raises:
        ValueError: if it holds another series, or pictures of another state of the renderer.
    """
    card = folder / "series.json"
    wanted = asdict(config) | {"renderer": renderer_fingerprint()}
    if not card.exists():
        with replacing(card) as part:
            part.write_text(json.dumps(wanted), encoding="utf-8")
    got = json.loads(card.read_text(encoding="utf-8"))
    if got != wanted:
        raise ValueError(
            f"{folder}: got shards of {got}, expected {wanted}; remove the folder to render anew, "
            "or leave out the stage `data` to train on what is there"
        )


def write_shard(folder: Path, index: int, pictures: Tensor, parameters: Tensor) -> None:
    """Write shard `index`.

    Args:
        folder: Where the series is.
        index: Number of the shard.
        pictures: [n, 3, size, size] in [-1, 1].
        parameters: [n, P] float32, see `demo.portraits.sampling.parameter_vector`.
    """
    levels = (pictures.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
    with replacing(folder / f"parameters-{index:05d}.npy") as part:
        np.save(part, parameters.cpu().numpy())
    with replacing(_pictures_path(folder, index)) as part:
        np.save(part, levels.cpu().numpy())


def has_shard(folder: Path, index: int) -> bool:
    """Return whether shard `index` is complete: its pictures are written last."""
    return _pictures_path(folder, index).exists()


class PortraitShards:
    """Read the complete shards of a series.

    Args:
        folder: Where the series is.
        limit: Portraits to use at most; None for all.

    Raises:
        ValueError: if there are none.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        paths = sorted(folder.glob("pictures-*.npy"))
        if not paths:
            raise ValueError(f"{folder}: got no shards, expected some; run the stage `data` first")
        self.card: dict[str, object] = json.loads((folder / "series.json").read_text("utf-8"))
        self._pictures: list[NDArray[np.uint8]] = [np.load(p, mmap_mode="r") for p in paths]
        names = [p.with_name(p.name.replace("pictures", "parameters")) for p in paths]
        self._parameters = torch.cat([torch.from_numpy(np.load(p)) for p in names])
        self._shard = len(self._pictures[0])
        self._length = min(len(self._parameters), limit or len(self._parameters))

    def __len__(self) -> int:
        return self._length

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        return int(self._pictures[0].shape[-1])

    @property
    def parameters(self) -> Tensor:
        """[N, P] float32 parameter vectors."""
        return self._parameters[: self._length]

    def levels(self, index: Tensor) -> Tensor:
        """Return the pictures `index` [B] as [B, 3, size, size] uint8."""
        rows = [self._pictures[i // self._shard][i % self._shard] for i in index.tolist()]
        return torch.from_numpy(np.stack(rows))


def to_pictures(levels: Tensor) -> Tensor:
    """Map uint8 levels to float32 in [-1, 1]."""
    return levels.float() / 127.5 - 1


def level_source(shards: PortraitShards, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return a function that gives the pictures of rows [B] as uint8 on `device`.

    On an accelerator all pictures are kept there.
    """
    if device.type == "cpu":
        return shards.levels
    resident = shards.levels(torch.arange(len(shards))).to(device)
    return lambda rows: resident[rows.to(device)]


def _pictures_path(folder: Path, index: int) -> Path:
    return folder / f"pictures-{index:05d}.npy"
