"""The W+ store: latents of aligned faces in Zarr, beside a ledger that says which rows count.

Row numbers are shard * shard_size + place in the shard: one unit of work is one Zarr shard, and has
one writer. Rows that nobody wrote hold NaN.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import zarr
from numpy.typing import NDArray
from zarr.core.common import AccessModeLiteral as AccessMode

from manifests.schemas import LATENTS
from tasks.bundles import Role
from tasks.places import LATENT_STORES
from tasks.provenance import CODE_VERSION
from tasks.store.arrays import create_arrays, create_group, open_array
from tasks.store.folders import Folder, sha256
from tasks.store.ledger import Ledger, Row
from tasks.store.zarr_reading import reading_zarr, sound_array

if TYPE_CHECKING:
    from tasks.models import Models


FORMAT, FORMAT_VERSION = "styleclip-w-plus", 1
STORE = "w_plus.zarr"
# Rows of a chunk, the least that is read.
CHUNK = 64
# What mends chunks.
_MENDING = "restore it from a copy, or give `styleclip invert` with --redo-damaged"
# Networks that the stored values depend on.
BINDING: tuple[Role, ...] = ("generator", "encoder", "identity", "judge")

# What the ledger of a store plans.
FACE_UNITS = pa.schema([(n, pa.string()) for n in ("image_id", "crop_uri", "w_plus_uri")])


class LatentStoreError(ValueError):
    """A W+ store belongs to other networks, or lacks what is asked of it."""


@dataclass(frozen=True)
class Latents:
    """What is stored of N images.

    Attributes:
        w_plus: [N, num_ws, w_dim] float32.
        source_clip, inversion_clip: [N, E] float32, unit norm; zeros where there is no photograph.
        source_identity, inversion_identity: [N, D] float32, likewise.
    """

    w_plus: NDArray[np.float32]
    source_clip: NDArray[np.float32]
    inversion_clip: NDArray[np.float32]
    source_identity: NDArray[np.float32]
    inversion_identity: NDArray[np.float32]

    def digests(self) -> list[str]:
        """Return the sha256 of all values of each image."""
        arrays = [getattr(self, name).astype("<f4") for name in _ARRAYS]
        return [sha256(b"".join(a.tobytes() for a in image)) for image in zip(*arrays, strict=True)]

    def broken(self) -> list[str]:
        """Return for each image the names of its arrays that hold NaN or infinity."""
        values = {name: getattr(self, name) for name in _ARRAYS}
        finite = {n: np.isfinite(v).all(axis=tuple(range(1, v.ndim))) for n, v in values.items()}
        return [
            ", ".join(name for name in _ARRAYS if not finite[name][i])
            for i in range(len(self.w_plus))
        ]

    def take(self, places: Sequence[int]) -> "Latents":
        """Return the latents of the images at some places."""
        return Latents(*(getattr(self, name)[list(places)] for name in _ARRAYS))


_ARRAYS = tuple(Latents.__dataclass_fields__)
_TEXTS = ("image_id", "source_sha256", "status")
# Names of axes, as xarray wants them.
_AXES = {
    "w_plus": ("face", "layer", "w"),
    "source_clip": ("face", "clip"),
    "inversion_clip": ("face", "clip"),
    "source_identity": ("face", "identity"),
    "inversion_identity": ("face", "identity"),
}


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
            return dict(zarr.open_group(self.folder.zarr_store(STORE), mode="r").attrs)

    def create(self, models: "Models", shard_size: int) -> None:
        """Make the Zarr group, or check that the one there is of the same networks.

        Args:
            models: The networks.
            shard_size: Rows of a shard; rounded up to whole chunks. A store keeps the one that it
                was made with.

        Raises:
            LatentStoreError: The store is of other networks.
        """
        rows = -(-shard_size // CHUNK) * CHUNK
        wanted: dict[str, Any] = {"format": FORMAT, "version": FORMAT_VERSION} | _binding(models)
        attributes = wanted | {"code_version": CODE_VERSION, "shard_size": rows}
        if not create_group(self.folder, STORE, attributes):
            got = self.attributes
            differing = [name for name, value in wanted.items() if got.get(name) != value]
            if differing:
                raise LatentStoreError(
                    f"{self.folder.url}: got a store whose {', '.join(differing)} differ, "
                    f"expected {[wanted[name] for name in differing]}"
                )
            rows = self.shard_size

        def build(group: zarr.Group) -> None:
            for name, width in _widths(models).items():
                group.create_array(
                    name,
                    shape=(0, *width),
                    chunks=(CHUNK, *width),
                    shards=(rows, *width),
                    dtype="float32",
                    fill_value=np.nan,
                    dimension_names=_AXES[name],
                )
            for name in _TEXTS:
                group.create_array(
                    name, shape=(0,), chunks=(rows,), dtype="string", dimension_names=("face",)
                )

        create_arrays(self.folder, STORE, build)

    def plan(self, units: pa.Table) -> list[int]:
        """Plan faces that have no row yet, and make room for them.

        Args:
            units: Of the columns FACE_UNITS.

        Returns:
            Planned shards that are not committed.

        Raises:
            LatentStoreError: Another latent has the name of a face.
        """
        columns = units["image_id"].to_pylist(), units["w_plus_uri"].to_pylist()
        made_of = dict(zip(*columns, strict=True))

        def check(planned: pa.Table) -> None:
            known = planned.filter(pc.is_in(planned["image_id"], units["image_id"]))
            for name, _, uri in zip(*known.to_pydict().values(), strict=True):
                mine, theirs = _made_of(made_of[name]), _made_of(uri)
                if mine != theirs:
                    raise LatentStoreError(
                        f"{name}: got {mine}, expected {theirs}, which has this name in "
                        f"{self.folder.url}; give it another name"
                    )

        self.ledger.extend(units, "image_id", self.shard_size, check)
        self.grow()
        return self.ledger.pending()

    def grow(self) -> None:
        """Let the arrays say that there is room for every planned shard.

        Several writers may say it at once, and one that is late says less. So nothing here relies
        on it; it is for other readers of the store.
        """
        plans = self.ledger.plans()
        rows = (plans[-1] + 1 if plans else 0) * self.shard_size
        for name in (*_ARRAYS, *_TEXTS):
            array = self._array(name, "r+")
            if array.shape[0] < rows:
                array.resize((rows, *array.shape[1:]))

    def write(
        self, shard: int, latents: Latents, places: Sequence[int], rows: Sequence[Mapping[str, Any]]
    ) -> str:
        """Write one whole shard.

        Args:
            shard: Its number.
            latents: Of the N faces that were inverted.
            places: [N] their places in the shard.
            rows: `row`, `image_id`, `source_sha256` and `status` of every face of the shard.

        Returns:
            The sha256 of its numbers.
        """
        size = self.shard_size
        span = slice(shard * size, (shard + 1) * size)
        digest = hashlib.sha256()
        for name in _ARRAYS:
            values = getattr(latents, name)
            block = np.full((size, *values.shape[1:]), np.nan, np.float32)
            block[list(places)] = values
            self._overwrite(name, shard, block)
            digest.update(block.tobytes())
        for name in _TEXTS:
            texts = np.full(size, "", dtype=object)
            for row in rows:
                texts[row["row"] - span.start] = row[name]
            self._overwrite(name, shard, texts)
        return digest.hexdigest()

    def _overwrite(self, name: str, shard: int, values: Any) -> None:
        """Write a whole shard of an array, also over a damaged one, which Zarr would read."""
        span = slice(shard * len(values), (shard + 1) * len(values))
        array = self._array(name, "r+", span.stop)
        try:
            array[span] = values
        except ValueError:
            self.folder.remove_all(f"{STORE}/{name}/c/{shard}")
            array[span] = values

    def digest(self, shard: int) -> str:
        """Return the sha256 of the numbers of a shard, as `write` did and its commit has it."""
        span = slice(shard * self.shard_size, (shard + 1) * self.shard_size)
        digest = hashlib.sha256()
        for name in _ARRAYS:
            digest.update(np.asarray(self._array(name, "r", span.stop)[span]).tobytes())
        return digest.hexdigest()

    def erase(self, image_id: str) -> int:
        """Overwrite what is stored of an image: numbers with NaN, then its texts with nothing.

        Returns:
            Rows overwritten.

        Raises:
            LatentStoreError: The store is damaged, so that nobody knows what is in it.
        """
        size, plans, count = self.shard_size, self.ledger.plans(), 0
        length = (plans[-1] + 1 if plans else 0) * size
        for start in range(0, length, size):
            with self._reading(_MENDING):
                count += self._erase(image_id, slice(start, start + size), length)
        return count

    def _erase(self, image_id: str, span: slice, length: int) -> int:
        names = np.asarray(self._array("image_id", "r", length)[span], dtype=object)
        rows = np.flatnonzero(names == image_id)
        if not len(rows):
            return 0
        # Whole shards are written, so that nothing of the old ones stays.
        for name in (*_ARRAYS, *_TEXTS[::-1]):
            array = self._array(name, "r+", length)
            block = np.asarray(array[span], dtype=None if name in _ARRAYS else object)
            block[rows] = np.nan if name in _ARRAYS else ""
            array[span] = block
        return len(rows)

    def erase_shard(self, shard: int) -> None:
        """Overwrite a whole shard that is not committed, so that nobody knows what is in it."""
        span = slice(shard * self.shard_size, (shard + 1) * self.shard_size)
        for name in (*_ARRAYS, *_TEXTS):
            self._array(name, "r+", span.stop)[span] = np.nan if name in _ARRAYS else ""

    def none(self) -> Latents:
        """Return the latents of no image."""
        return self.read([])

    def image_ids(self) -> list[str]:
        """Return the images that have a latent, in the order of the ledger."""
        names: list[str] = self.known()["image_id"].to_pylist()
        return names

    def known(self) -> pa.Table:
        """Return `image_id`, `row` and `stored_sha256` of the latents that are committed now."""
        return self.ledger.ok_rows("image_id", "row", "stored_sha256")

    def rows_of(self, image_ids: Sequence[str], known: pa.Table | None = None) -> list[int | None]:
        """Return the rows of images, None for those without a latent.

        Args:
            image_ids: The images.
            known: See `known`; read where None.
        """
        known = self.known() if known is None else known
        return _look_up(image_ids, known, "row")

    def digests_of(
        self, image_ids: Sequence[str], known: pa.Table | None = None
    ) -> list[str | None]:
        """Return the sha256 of the latents of images, None for those without; see `rows_of`."""
        known = self.known() if known is None else known
        return _look_up(image_ids, known, "stored_sha256")

    def read_stored(self, rows: Sequence[int]) -> Latents:
        """Read rows as they are, NaN included, in the order given.

        Raises:
            LatentStoreError: The store is damaged.
        """
        unique, places = np.unique(np.array(rows, dtype=np.int64), return_inverse=True)
        length = int(unique[-1]) + 1 if len(unique) else None
        axes = {name: 3 if name == "w_plus" else 2 for name in _ARRAYS}
        with self._reading():
            arrays = [sound_array(self._array(name, "r", length), n) for name, n in axes.items()]
        with self._reading(_MENDING):
            return Latents(*(array.oindex[unique][places] for array in arrays))

    def read(self, rows: Sequence[int]) -> Latents:
        """Read rows, in the order given.

        Raises:
            LatentStoreError: A row holds NaN: it was never written, or its chunk is lost; or it
                holds other values than were committed; or the store is damaged.
        """
        found, errors = self.read_usable(rows)
        broken = [(row, error) for row, error in zip(rows, errors, strict=True) if error]
        if broken:
            raise LatentStoreError(f"got damaged rows {[r for r, _ in broken[:8]]}: {broken[0][1]}")
        return found

    def read_usable(
        self, rows: Sequence[int], known: pa.Table | None = None
    ) -> tuple[Latents, list[str]]:
        """Read rows of which some may hold NaN, infinity, or other values than were committed.

        Args:
            rows: Their numbers.
            known: `row` and `stored_sha256` of them, see `known`; read where None.

        Returns:
            The latents of the others, in the order given; and for each row what is wrong with it,
            empty where nothing is.

        Raises:
            LatentStoreError: The store is damaged.
        """
        found = self.read_stored(rows)
        known = self.known() if known is None else known
        places = pc.index_in(pa.array(rows, pa.int64()), value_set=known["row"])
        wanted = known["stored_sha256"].take(places).to_pylist()
        errors = list[str]()
        for row, names, got, committed in zip(
            rows, found.broken(), found.digests(), wanted, strict=True
        ):
            what = f"got NaN or infinity in {names}, expected numbers" if names else ""
            if not names and committed and got != committed:
                what = f"got values of sha256 {got}, expected {committed}"
            errors.append(what and self._tell(row, what))
        return found.take([i for i, error in enumerate(errors) if not error]), errors

    def altered_texts(self, rows: Sequence[Row]) -> list[str]:
        """Return for each committed row which of its texts are not stored as they are in it.

        Raises:
            LatentStoreError: The store is damaged.
        """
        numbers = np.array([row["row"] for row in rows], dtype=np.int64)
        length = int(numbers.max()) + 1 if len(numbers) else None
        with self._reading(_MENDING):
            stored = {n: self._array(n, "r", length).oindex[numbers].tolist() for n in _TEXTS}
        return [
            ", ".join(name for name in _TEXTS if stored[name][place] != row[name])
            for place, row in enumerate(rows)
        ]

    def altered_names(self, rows: Sequence[Row]) -> set[str]:
        """Return the image ids of committed rows whose texts are not stored as they are in them."""
        try:
            altered = self.altered_texts(rows)
        except LatentStoreError:
            altered = ["all"] * len(rows)
        return {row["image_id"] for row, names in zip(rows, altered, strict=True) if names}

    def altered_rows(self, rows: Sequence[Row]) -> set[int]:
        """Return the numbers of those committed rows whose values are not stored as they were."""
        altered, numbered = set[int](), sorted(rows, key=itemgetter("row"))
        for _, chunk in groupby(numbered, lambda row: int(row["row"]) // CHUNK):
            asked = [*chunk]
            numbers = [row["row"] for row in asked]
            digests = pa.array([row["stored_sha256"] for row in asked], pa.string())
            known = pa.table({"row": pa.array(numbers, pa.int64()), "stored_sha256": digests})
            try:
                errors = self.read_usable(numbers, known)[1]
            except LatentStoreError:
                altered.update(numbers)
                continue
            wrong = zip(numbers, errors, strict=True)
            altered.update(number for number, error in wrong if error)
        return altered

    def _tell(self, row: int, what: str) -> str:
        return (
            f"row {row} of {self.folder.url}/{STORE}: {what}; "
            f"its chunk is missing or was changed: {_MENDING}"
        )

    def _reading(self, remedy: str = "") -> AbstractContextManager[None]:
        anew = f"restore it from a copy, or remove {self.folder.url} to invert again"
        return reading_zarr(f"{self.folder.url}/{STORE}", LatentStoreError, remedy or anew)

    def _array(self, name: str, mode: AccessMode, rows: int | None = None) -> Any:
        return open_array(self.folder, f"{STORE}/{name}", mode, rows)


def _look_up(image_ids: Sequence[str], known: pa.Table, column: str) -> list[Any]:
    """What known latents have in a column, None for images without."""
    places = pc.index_in(pa.array(image_ids, pa.string()), value_set=known["image_id"])
    found: list[Any] = known[column].take(places).to_pylist()
    return found


def _made_of(uri: str | None) -> str:
    """Name what a latent is made of: a row of an imported file, wherever that is now, or a crop."""
    return f"the imported latent {uri.rpartition('/')[2]}" if uri else "an aligned photograph"


def latent_folder(workspace: Folder, models: "Models") -> Folder:
    """Return where the latents of a set of networks are in a workspace."""
    return workspace / LATENT_STORES / sha256(json.dumps(_binding(models)).encode())[:16]


def _binding(models: "Models") -> dict[str, str]:
    """Fingerprints of all that the stored values depend on."""
    return models.marks(*BINDING)


def _widths(models: "Models") -> dict[str, tuple[int, ...]]:
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


def imported_images(workspace: str, store: str = "") -> Iterator[str]:
    """Yield the image ids of the sound latents that were taken in from other tools, each once.

    Args:
        workspace: URL of the workspace.
        store: Name of the latent store that they are in; all where empty.
    """
    seen = set[str]()
    for rows in _imported_rows(workspace, store):
        found = rows.filter(_is_ok(rows))["image_id"].to_pylist()
        yield from (image_id for image_id in found if image_id not in seen)
        seen.update(found)


def unsound_latents(workspace: str) -> list[Row]:
    """Return the latents of which no store of a workspace has a sound one.

    Returns:
        `image_id`, `status` and `error` of each.
    """
    found, sound = dict[str, Row](), set[str]()
    for ledger in _ledgers(workspace):
        for rows in ledger.results():
            told, is_sound = rows.select(["image_id", "status", "error"]), _is_ok(rows)
            sound.update(told.filter(is_sound)["image_id"].to_pylist())
            for row in told.filter(pc.invert(is_sound)).to_pylist():
                found.setdefault(row["image_id"], row)
    return [row for name, row in found.items() if name not in sound]


def _imported_rows(workspace: str, store: str = "") -> Iterator[pa.Table]:
    """Yield the rows of the latents from other tools, shard by shard."""
    for ledger in _ledgers(workspace, store):
        for shard in ledger.committed():
            units, rows = ledger.units(shard), ledger.rows(shard)
            imported = units.filter(pc.is_valid(units["w_plus_uri"]))["image_id"]
            yield rows.filter(pc.is_in(rows["image_id"], imported))


def _ledgers(workspace: str, store: str = "") -> Iterator[Ledger]:
    folder = Folder(workspace) / LATENT_STORES
    for name in [store] if store else folder.names():
        yield Ledger(folder / name, LATENTS)


def _is_ok(rows: pa.Table) -> pa.ChunkedArray:
    return pc.equal(rows["status"], "ok")
