"""A small finished workspace: faces, latents, directions, a mapper, and two runs of all methods."""

import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pytest
import zarr
from PIL import Image

from manifests.building import write_edits
from manifests.cells import read_instruction
from manifests.edits import Edit, edits_batch
from manifests.schemas import FACES
from tasks.directions import (
    CHECK,
    MEASURE,
    DirectionStore,
    RelevanceConfig,
    compute_relevance_shard,
    direction_folder,
    plan_relevance,
)
from tasks.edits import edit_pairs_shard
from tasks.frozen import freeze_manifest
from tasks.inversion import invert_faces_shard, plan_inversion
from tasks.manifest_files import Manifest
from tasks.mappers import MapperConfig, train_prompt_mapper
from tasks.models import open_models
from tasks.photos.alignment import AlignmentConfig
from tasks.photos.faces import faces_ledger
from tasks.provenance import png_bytes
from tasks.runs import open_run, run_folder, run_ledger, settings_for
from tasks.store.folders import Folder, sha256

RELEVANCE = RelevanceConfig(num_images=4, num_statistics=50, mode="exact")
PEOPLE = ("anna", "anna.face1", "berta", "carl")
ASKED = (
    {"target_prompt": "a smiling face", "alpha": 2.0, "num_channels": 20},
    {"target_prompt": "a smiling face", "alpha": 4.0, "num_channels": 20},
    {
        "target_prompt": "a face with red hair",
        "method": "mapper",
        "options": json.dumps({"steps": 2, "mapper_type": "levels"}),
    },
    {"target_prompt": "a sad face", "method": "optimize", "options": json.dumps({"steps": 2})},
)


@dataclass(frozen=True)
class Finished:
    """A workspace in which runs `single` (files) and `tarred` (tar shards) are done."""

    root: str
    models: str
    photos: Path

    @property
    def folder(self) -> Folder:
        return Folder(self.root)

    def run(self, name: str) -> Folder:
        return run_folder(self.root, name)

    def group(self, kind: str) -> zarr.Group:
        """Open the only store of latents or directions."""
        (path,) = Path(self.root).glob(f"{kind}/*/*.zarr")
        return zarr.open_group(path, mode="r+")

    def results(self, name: str) -> pa.Table:
        return pa.concat_tables(run_ledger(self.run(name)).results())

    def ask(self, edits: Sequence[Edit]) -> None:
        """Write the manifest."""
        sink = io.BytesIO()
        write_edits([edits_batch(edits)], sink)
        self.folder.write("edits.parquet", sink.getvalue())

    def edit(
        self, name: str, shards: int | None = None, output: str = "files", batch_size: int = 3
    ) -> None:
        """Plan a run of the manifest, and do as many of its shards."""
        networks = open_models(self.models, "cpu")
        store = DirectionStore(direction_folder(self.folder, networks, RELEVANCE))
        mappers = [(self.folder / "mappers").url_of(n) for n in (self.folder / "mappers").names()]
        settings = settings_for(self.root, self.models, "cpu", "png", output)
        open_run(self.run(name), settings.with_assets(store, mappers))
        freeze_manifest(self.run(name), Manifest(f"{self.root}/edits.parquet"), 6)
        for shard in run_ledger(self.run(name)).pending()[:shards]:
            edit_pairs_shard(self.run(name).url, "cpu", shard, batch_size=batch_size)


@pytest.fixture(scope="session")
def kept(tmp_path_factory, models) -> tuple[Finished, Path]:
    """The workspace, and a copy of it."""
    place = tmp_path_factory.mktemp("finished")
    finished = Finished(str(place / "ws"), models, place / "photos")
    build(finished)
    shutil.copytree(finished.root, place / "copy")
    return finished, place / "copy"


@pytest.fixture
def finished(kept) -> Finished:
    """The workspace as it was when it was finished."""
    workspace, copy = kept
    shutil.rmtree(workspace.root, ignore_errors=True)
    shutil.copytree(copy, workspace.root)
    return workspace


def _measure_directions(root: str, models: str, config: RelevanceConfig) -> DirectionStore:
    """Do all shards of a direction store."""
    store = plan_relevance(root, models, "cpu", config)
    for shard in (*store.pending(CHECK), *store.pending(MEASURE)):
        compute_relevance_shard(root, models, "cpu", config, shard, batch_size=16)
    store.combine()
    return store


@pytest.fixture
def measure_directions() -> Callable[[str, str, RelevanceConfig], DirectionStore]:
    """Do all shards of a direction store, given workspace, bundle and settings."""
    return _measure_directions


def build(ws: Finished) -> None:
    ws.photos.mkdir()
    commit_faces(ws)
    for shard in plan_inversion(ws.root, ws.models, "cpu", 64):
        invert_faces_shard(ws.root, ws.models, "cpu", shard, 8)
    _measure_directions(ws.root, ws.models, RELEVANCE)
    config = MapperConfig(steps=2, mapper_type="levels")
    train_prompt_mapper(ws.root, ws.models, "cpu", "a face with red hair", config)
    ws.ask([Edit(name, read_instruction(asked)) for name in PEOPLE for asked in ASKED])
    ws.edit("single")
    ws.edit("tarred", output="webdataset")


def commit_faces(ws: Finished) -> None:
    """Write the faces ledger as alignment does; anna's photograph holds two people."""
    picture = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    units, rows = [], []
    for index, name in enumerate(PEOPLE):
        photo = ws.photos / f"{name.partition('.')[0]}.png"
        if not photo.exists():
            picture.rotate(10 * index).save(photo)
            units.append({"image_id": photo.stem, "source_uri": str(photo)})
        digest = sha256(photo.read_bytes())
        facts = {"image_id": name, "source_sha256": digest, "kind": "crop"}
        crop = png_bytes(picture.rotate(40 * index), facts)
        (ws.folder / "crops").write(f"{name}.png", crop)
        row = dict.fromkeys(FACES.names) | {"image_id": name, "source_uri": str(photo)}
        row |= {"source_sha256": digest, "status": "ok", "face_index": int("." in name)}
        crop_uri = (ws.folder / "crops").url_of(f"{name}.png")
        rows.append(row | {"crop_uri": crop_uri, "crop_sha256": sha256(crop)})
    units.append({"image_id": "nobody", "source_uri": str(ws.photos / "nobody.png")})
    rows.append(
        dict.fromkeys(FACES.names)
        | {"image_id": "nobody", "source_uri": str(ws.photos / "nobody.png"), "status": "no_face"}
    )
    ledger = faces_ledger(ws.root)
    ledger.folder.write("settings.json", json.dumps(asdict(AlignmentConfig())).encode())
    ledger.plan_shard(0, pa.Table.from_pylist(units))
    ledger.commit(0, pa.Table.from_pylist(rows, FACES), {"photos": len(units)})


@pytest.fixture
def stopped_after(monkeypatch) -> Callable[[int], AbstractContextManager[None]]:
    """Let a block end as the process would that dies instead of creating another file."""

    @contextmanager
    def stopped(files: int) -> Iterator[None]:
        create, made = Folder.create, list[str]()

        def create_or_stop(folder: Folder, name: str, content: bytes) -> None:
            if len(made) == files:
                raise KeyboardInterrupt
            made.append(name)
            create(folder, name, content)

        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(Folder, "create", create_or_stop)
            yield
            pytest.fail(f"made {len(made)} files only")

    return stopped
