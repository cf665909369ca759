"""Hostile Zarr stores: damaged files, lost chunks, other arrays, foreign attributes."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import zarr

from benchmarks.endurance.hostile.items import Item, damaged, drawing
from benchmarks.endurance.small_bundle import write_small_bundle
from manifests.schemas import LATENTS
from tasks.directions import DirectionStore, DirectionStoreError, RelevanceConfig
from tasks.latents import (
    FACE_UNITS,
    STORE,
    Latents,
    LatentStore,
    LatentStoreError,
)
from tasks.models import open_models
from tasks.store.folders import Folder

_FACES = 100
_VALUES: tuple[object, ...] = (
    0,
    -1,
    10**12,
    "x",
    None,
    [],
    {},
    [1, 2, 3],
    True,
    1.5,
    "string",
    "float64",
    "int8",
)


class Stores:
    """W+ stores and direction stores."""

    refusals = (LatentStoreError, DirectionStoreError)

    def __init__(self, folder: Path, seed: int, _: Path) -> None:
        self._folder, self._seed = folder, seed
        models = open_models(write_small_bundle(folder), "cpu")
        self._ids = [f"face-{i}" for i in range(_FACES)]
        self._sound = folder / "sound"
        latents = LatentStore(Folder(str(self._sound / "latents")))
        latents.create(models, 64)
        units = {"image_id": self._ids, "crop_uri": [""] * _FACES, "w_plus_uri": [""] * _FACES}
        latents.ledger.extend(pa.table(units, FACE_UNITS), "image_id", 64)
        latents.grow()
        for shard in latents.ledger.plans():
            _write(latents, shard)
        directions = DirectionStore(Folder(str(self._sound / "directions")))
        directions.create(models, RelevanceConfig(1, 10), 1)
        channels = len(models.generator.layout.editable_channels)
        for shard in directions.ledger.plans():
            directions.commit(shard, torch.zeros(channels, models.clip.embedding_dim))
        self._by_hand = [*_BY_HAND]

    def good(self) -> Item:
        """Return a store without damage."""
        return Item("good", "", b"", "none")

    def item(self, index: int) -> Item:
        """Return one damage: the content names it, or is the number that it is drawn by."""
        if index < len(self._by_hand):
            return Item(self._by_hand[index], "", b"", self._by_hand[index])
        return Item("a file damaged", "", str(index).encode(), "file")

    def judge(self, item: Item) -> str:
        """Do the damage to a copy and read it."""
        root = self._folder / "copy"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self._sound, root)
        if item.door in _BY_HAND:
            _BY_HAND[item.door](root)
        elif item.door == "file":
            _damage(root, drawing(self._seed, "stores", int(item.content)))
        store = LatentStore(Folder(str(root / "latents")))
        rows = store.rows_of(self._ids)
        assert rows == [*range(_FACES)], "got other rows"
        found = store.read([row for row in rows if row is not None])
        for name in Latents.__dataclass_fields__:
            values = getattr(found, name)
            assert values.dtype == np.float32, f"got {name} of {values.dtype}"
            assert bool(np.isfinite(values).all()), f"got {name} with NaN"
        directions = DirectionStore(Folder(str(root / "directions"))).read()
        assert bool(directions.channel_clip_directions.isfinite().all())
        return "accepted"


def _write(store: LatentStore, shard: int) -> None:
    units = store.ledger.units(shard).to_pylist()
    first = shard * store.shard_size
    shapes = {name: getattr(store.none(), name).shape[1:] for name in Latents.__dataclass_fields__}
    random_values = np.random.default_rng(shard)
    latents = Latents(
        **{
            name: random_values.normal(size=(len(units), *shape)).astype(np.float32)
            for name, shape in shapes.items()
        }
    )
    rows = [
        dict.fromkeys(LATENTS.names)
        | {"image_id": unit["image_id"], "row": first + i, "status": "ok", "source_sha256": ""}
        for i, unit in enumerate(units)
    ]
    store.write(shard, latents, range(len(units)), rows)
    store.ledger.commit(shard, pa.Table.from_pylist(rows, LATENTS))


def _zarr_files(root: Path, pattern: str = "*") -> list[Path]:
    found = root.glob(f"*/*.zarr/**/{pattern}")
    return sorted(path for path in found if path.is_file())


def _damage(root: Path, draw: random.Random) -> None:
    path = draw.choice(_zarr_files(root))
    if path.name == "zarr.json" and draw.random() < 0.7:
        document = json.loads(path.read_text())
        document[draw.choice([*document])] = draw.choice(_VALUES)
        path.write_text(json.dumps(document))
    elif draw.random() < 0.2:
        path.unlink()
    else:
        path.write_bytes(damaged(path.read_bytes(), draw)[1])


def _edited(place: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        path = root / "latents" / STORE / place / "zarr.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return edit


def _replaced(name: str, values: Any, store: str = f"latents/{STORE}") -> Callable[[Path], None]:
    def replace(root: Path) -> None:
        group = zarr.open_group(root / store, mode="a")
        group.create_array(name, data=values, overwrite=True)

    return replace


def _nan(name: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        array: Any = zarr.open_group(root / "latents" / STORE, mode="r+")[name]
        array[3:5] = np.nan

    return write


def _without_chunks(name: str) -> Callable[[Path], None]:
    def remove(root: Path) -> None:
        for path in root.glob(f"*/*.zarr/{name}/c/**/*"):
            if path.is_file():
                path.unlink()

    return remove


_BY_HAND: dict[str, Callable[[Path], None]] = {
    "no chunk of w_plus": _without_chunks("w_plus"),
    "no chunk of source_clip": _without_chunks("source_clip"),
    "no chunk of the directions": _without_chunks("channel_clip_directions"),
    "no chunk of the deviations": _without_chunks("channel_std"),
    "NaN in w_plus": _nan("w_plus"),
    "NaN in inversion_identity": _nan("inversion_identity"),
    "no store": lambda root: shutil.rmtree(root / "latents" / STORE),
    "no array": lambda root: shutil.rmtree(root / "latents" / STORE / "w_plus"),
    "fewer rows": _replaced("w_plus", np.zeros((10, 8, 28), np.float32)),
    "no axis": _replaced("w_plus", np.zeros(_FACES, np.float32)),
    "another width": _replaced("w_plus", np.zeros((192, 3, 5), np.float32)),
    "float64": _replaced("w_plus", np.zeros((192, 8, 28))),
    "text": _replaced("w_plus", np.full((192, 8, 28), "x")),
    "directions of text": _replaced("channel_std", np.full(9, "x"), "directions/directions.zarr"),
    "directions of another width": _replaced(
        "channel_std", np.zeros(9, np.float32), "directions/directions.zarr"
    ),
    "foreign attributes": _edited("", lambda d: d.update(attributes={"author": "<b>\x1b[2J"})),
    "shards of no rows": _edited("", lambda d: d["attributes"].update(shard_size=0)),
    "shards of words": _edited("", lambda d: d["attributes"].update(shard_size="many")),
    "a shape of a trillion rows": _edited("w_plus", lambda d: d.update(shape=[10**12, 8, 28])),
    "chunks of a trillion rows": _edited(
        "w_plus",
        lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[10**12, 8, 28]),
    ),
    "an unknown codec": _edited("w_plus", lambda d: d.update(codecs=[{"name": "evil.exec"}])),
    "a group in place of an array": _edited(
        "w_plus",
        lambda d: (
            [d.pop(key) for key in [*d] if key != "zarr_format"]
            and d.update(node_type="group", attributes={})
        ),
    ),
}
