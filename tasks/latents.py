"""The W+ store: latents of aligned faces in Zarr, beside a ledger that says which rows count.

Row numbers are shard * shard_size + place in the shard: one unit of work is one Zarr shard, and has
one writer. Rows that nobody wrote hold NaN.
"""

import json
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import zarr
from numpy.typing import NDArray
from zarr.core.common import AccessModeLiteral as AccessMode

from tasks.ledger import COMMITS, Ledger
from tasks.models import Models, Role
from tasks.provenance import CODE_VERSION
from tasks.storage import Folder, sha256
from tasks.zarr_reading import reading_zarr, sound_array

FORMAT, FORMAT_VERSION = "styleclip-w-plus", 1
STORE = "w_plus.zarr"
# Rows of a chunk, the least that is read.
CHUNK = 64
_BINDING: tuple[Role, ...] = ("generator", "encoder", "identity")

# What the ledger of a store plans, and what it says of each latent.
FACE_UNITS = pa.schema([(n, pa.string()) for n in ("image_id", "crop_uri", "w_plus_uri")])
LATENTS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("row", pa.int64(), metadata={"description": "row of the Zarr arrays"}),
        pa.field("source_sha256", pa.string(), metadata={"description": "of the aligned crop"}),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("inversion_uri", pa.string()),
        pa.field("l1", pa.float64(), metadata={"description": "crop to inversion, on [-1, 1]"}),
        pa.field("image_inversion", pa.float64(), metadata={"description": "CLIP cosine"}),
        pa.field("identity_inversion", pa.float64(), metadata={"description": "cosine"}),
    ]
)


class LatentStoreError(ValueError):
    """A W+ store belongs to other networks, or lacks what is asked of it."""


@dataclass(frozen=True)
class Latents:
    """What is stored of N images.

    Attributes:
        w_plus: [N, num_ws, w_dim] float32.
        source_clip, inversion_clip: [N, E] float32, unit norm.
        source_identity, inversion_identity: [N, D] float32, unit norm.
    """

    w_plus: NDArray[np.float32]
    source_clip: NDArray[np.float32]
    inversion_clip: NDArray[np.float32]
    source_identity: NDArray[np.float32]
    inversion_identity: NDArray[np.float32]


_ARRAYS = tuple(Latents.__dataclass_fields__)


class LatentStore:
    """The latents that one set of networks gave for the faces of a workspace.

    Args:
        folder: Of the store, with its ledger.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.ledger = Ledger(folder, LATENTS)

    @property
    def shard_size(self) -> int:
        """Rows of a shard."""
        with self._reading():
            size = int(self.attributes["shard_size"])
        if size < 1:
            raise LatentStoreError(f"{self.folder.url}: got shards of {size} rows, expected some")
        return size

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What binds the store to networks and code."""
        with self._reading():
            return dict(self._group("r").attrs)

    def create(self, models: Models, shard_size: int) -> None:
        """Make the Zarr group, or check that the one there is of the same networks.

        Args:
            models: The networks.
            shard_size: Rows of a shard; rounded up to whole chunks. A store keeps the one that it
                was made with.

        Raises:
            LatentStoreError: The store is of other networks.
        """
        wanted: dict[str, Any] = {"format": FORMAT, "version": FORMAT_VERSION} | _binding(models)
        if (self.folder / STORE).exists("zarr.json"):
            got = self.attributes
            differing = [name for name, value in wanted.items() if got.get(name) != value]
            if differing:
                raise LatentStoreError(
                    f"{self.folder.url}: got a store whose {', '.join(differing)} differ, "
                    f"expected {[wanted[name] for name in differing]}"
                )
            return
        rows = -(-shard_size // CHUNK) * CHUNK
        group = self._group("a")
        for name, width in _widths(models).items():
            group.create_array(
                name,
                shape=(0, *width),
                chunks=(CHUNK, *width),
                shards=(rows, *width),
                dtype="float32",
                fill_value=np.nan,
            )
        for name in ("image_id", "source_sha256", "status"):
            group.create_array(name, shape=(0,), chunks=(rows,), dtype="string")
        group.attrs.update(wanted | {"code_version": CODE_VERSION, "shard_size": rows})

    def grow(self) -> None:
        """Make room for every planned shard."""
        plans = self.ledger.plans()
        rows = (plans[-1] + 1 if plans else 0) * self.shard_size
        for _, array in self._group("r+").arrays():
            if array.shape[0] < rows:
                array.resize((rows, *array.shape[1:]))

    def write(
        self, shard: int, latents: Latents, places: Sequence[int], rows: Sequence[Mapping[str, str]]
    ) -> None:
        """Write one whole shard.

        Args:
            shard: Its number.
            latents: Of the N faces that were inverted.
            places: [N] their places in the shard.
            rows: `image_id`, `source_sha256` and `status` of every face of the shard.
        """
        size = self.shard_size
        span = slice(shard * size, (shard + 1) * size)
        for name in _ARRAYS:
            values = getattr(latents, name)
            block = np.full((size, *values.shape[1:]), np.nan, np.float32)
            block[list(places)] = values
            self._array(name, "r+")[span] = block
        for name in ("image_id", "source_sha256", "status"):
            texts = np.full(size, "", dtype=object)
            texts[: len(rows)] = [row[name] for row in rows]
            self._array(name, "r+")[span] = texts

    def none(self) -> Latents:
        """Return the latents of no image."""
        return self.read([])

    def rows_of(self, image_ids: Sequence[str]) -> list[int | None]:
        """Return the rows of images, None for those without a latent."""
        known = _known_rows(self.folder.url, (self.folder / COMMITS).versions())
        places = pc.index_in(pa.array(image_ids, pa.string()), value_set=known["image_id"])
        rows: list[int | None] = known["row"].take(places).to_pylist()
        return rows

    def read(self, rows: Sequence[int]) -> Latents:
        """Read rows, in the order given.

        Raises:
            LatentStoreError: A row holds NaN: it was never written, or its chunk is lost; or the
                store is damaged.
        """
        wanted = np.array(rows, dtype=np.int64)
        unique, places = np.unique(wanted, return_inverse=True)
        with self._reading():
            group = self._group("r")
            arrays = [sound_array(group, name, 3 if name == "w_plus" else 2) for name in _ARRAYS]
            found = Latents(*(array.oindex[unique][places] for array in arrays))
        finite = [np.isfinite(v).all(axis=tuple(range(1, v.ndim))) for v in vars(found).values()]
        broken = ~np.all(finite, axis=0)
        if broken.any():
            raise LatentStoreError(
                f"{self.folder.url}/{STORE}: got NaN in rows {wanted[broken][:8].tolist()}, "
                "expected latents; the chunk is missing: restore it, or remove the shard's commit "
                "to invert again"
            )
        return found

    def _reading(self) -> AbstractContextManager[None]:
        url = f"{self.folder.url}/{STORE}"
        remedy = "restore it, or remove the store and its ledger to invert again"
        return reading_zarr(url, LatentStoreError, remedy)

    def _group(self, mode: AccessMode) -> zarr.Group:
        return zarr.open_group(self.folder.zarr_store(STORE), mode=mode)

    def _array(self, name: str, mode: AccessMode) -> Any:
        return self._group(mode)[name]


@lru_cache(maxsize=2)
def _known_rows(url: str, _: Hashable) -> pa.Table:
    """The images with a latent and their rows, read once for each state of the commits."""
    results = Ledger(Folder(url), LATENTS).results()
    tables = [table.filter(pc.equal(table["status"], "ok")) for table in results]
    chosen = [table.select(["image_id", "row"]) for table in tables]
    return pa.concat_tables(chosen or [LATENTS.empty_table()]).combine_chunks()


def latent_folder(workspace: Folder, models: Models) -> Folder:
    """Return where the latents of a set of networks are in a workspace."""
    return workspace / "latents" / sha256(json.dumps(_binding(models)).encode())[:16]


def _binding(models: Models) -> dict[str, str]:
    """Fingerprints of all that the stored values depend on."""
    judge = models.fingerprint("judge" if models.has("judge") else "clip")
    own = {f"{role}_fingerprint": models.fingerprint(role) for role in _BINDING}
    return own | {"judge_fingerprint": judge}


def _widths(models: Models) -> dict[str, tuple[int, ...]]:
    clip = (models.judge.embedding_dim,)
    identity = (models.identity.config.embedding_dim,)
    generator = models.generator
    return {
        "w_plus": (generator.num_ws, generator.config.w_dim),
        "source_clip": clip,
        "inversion_clip": clip,
        "source_identity": identity,
        "inversion_identity": identity,
    }
