"""Latents of other tools: files of strangers, believed as far as their bytes go."""

import io
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from styleclip_ops.style_statistics import style_statistics
from tasks.directions import (
    MEASURE,
    DirectionStore,
    DirectionStoreError,
    RelevanceConfig,
    plan_relevance,
)
from tasks.interchange import (
    Import,
    keep_directions,
    plan_import,
    read_directions,
    read_import,
    write_directions,
)
from tasks.inversion import invert_faces_shard
from tasks.latents import FACE_UNITS, LatentStore, LatentStoreError, latent_folder
from tasks.models import open_models
from tasks.store.folders import Folder

GOOD = np.random.default_rng(0).normal(size=(3, 8, 28)).astype(np.float32)


class Payload:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("payload-was-run"),)


def npy(array: object) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


def npz() -> bytes:
    sink = io.BytesIO()
    np.savez(sink, w=GOOD)
    return sink.getvalue()


def pt(data: object) -> bytes:
    sink = io.BytesIO()
    torch.save(data, sink)
    return sink.getvalue()


HOSTILE = {
    "objects.npy": npy(np.array([Payload()], object)),
    "pickle.npy": pickle.dumps(Payload()),
    "archive.npy": npz(),
    "archive.npz": npz(),
    "cut.npy": npy(GOOD)[:-9],
    "empty.npy": b"",
    # A header that promises a hundred gigabytes, and no more.
    "bomb.npy": npy(GOOD)[:128].replace(b"(3, 8, 28), }       ", b"(99999999, 8, 28), }"),
    "integers.npy": npy(np.zeros((3, 8, 28), int)),
    "complex.npy": npy(np.zeros((3, 8, 28), complex)),
    "words.npy": npy(np.full((3, 8, 28), "x")),
    "none.npy": npy(GOOD[:0]),
    "wide.npy": npy(np.zeros((3, 8, 29))),
    "payload.pt": pickle.dumps(Payload()),
    "dictionary.pt": pt({"w": torch.zeros(3, 8, 28)}),
    "integers.pt": pt(torch.zeros(3, 8, 28, dtype=torch.int64)),
    "complex.pt": pt(torch.zeros(3, 8, 28, dtype=torch.complex64)),
    "sparse.pt": pt(torch.zeros(3, 8, 28).to_sparse()),
    "repeated.pt": pt(torch.zeros(1).expand(10**9, 8, 28)),
    "cut.pt": pt(torch.zeros(3, 8, 28))[:-40],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_array_of_latents_is_refused(tmp_path, models, name):
    path = tmp_path / name
    path.write_bytes(HOSTILE[name])
    with pytest.raises(LatentStoreError, match=rf"{name}: .*expected floats \[N, 8, 28\]"):
        read_import(str(path), "", models, "cpu")
    assert not Path("payload-was-run").exists()


def test_an_archive_of_arrays_is_called_one(tmp_path, models):
    (tmp_path / "w.npz").write_bytes(npz())
    with pytest.raises(LatentStoreError, match=r"w.npz: got an archive of arrays .*numpy.save"):
        read_import(str(tmp_path / "w.npz"), "", models, "cpu")


def test_other_latents_of_a_name_that_is_taken_are_refused(tmp_path, models):
    root, names = str(tmp_path / "ws"), ["anna", "berta", "carl"]
    first, second = Import(GOOD, names), Import(GOOD + 1, names)
    shards = plan_import(root, first, models, "cpu", 64)
    assert plan_import(root, first, models, "cpu", 64) == shards
    with pytest.raises(
        LatentStoreError, match=r"^anna: got the imported latent .*#0, expected .*#0"
    ):
        plan_import(root, second, models, "cpu", 64)
    # Of what was refused no copy stays, which nobody would ever find.
    assert len(Folder(f"{root}/imports").names()) == 1
    store = LatentStore(latent_folder(Folder(root), open_models(models, "cpu")))
    face = pa.Table.from_pylist([{"image_id": "carl", "crop_uri": "carl.png"}], FACE_UNITS)
    with pytest.raises(LatentStoreError, match="^carl: got an aligned photograph, expected"):
        store.plan(face)
    assert store.ledger.plans() == shards


def read_named(folder: Path, names: str, models: str) -> Import:
    np.save(folder / "w.npy", GOOD)
    (folder / "names.txt").write_text(names)
    return read_import(str(folder / "w.npy"), str(folder / "names.txt"), models, "cpu")


def test_names_are_one_a_line(tmp_path, models):
    read = read_named(tmp_path, "\ufeffanna\r\nberta \ncarl\n\n", models)
    assert read.image_ids == ["anna", "berta", "carl"]


@pytest.mark.parametrize(("names", "count"), [("", 0), ("anna\nberta\n", 2), ("a\nb\nc\nd", 4)])
def test_another_number_of_names_is_refused(tmp_path, models, names, count):
    told = rf"/names.txt: got {count} names, expected 3, one a line for each latent of w.npy"
    with pytest.raises(LatentStoreError, match=told):
        read_named(tmp_path, names, models)


@pytest.mark.parametrize(
    "bad", ["../up", "/etc/x", "a b", "", "\x1b[2J", "x" * 200, "a.face1", "anna"]
)
def test_names_that_are_no_image_ids_are_refused(tmp_path, models, bad):
    with pytest.raises(LatentStoreError, match=r"/names.txt, line 2: got .*expected.*; rename"):
        read_named(tmp_path, f"anna\n{bad}\ncarl\n", models)


@pytest.mark.parametrize("kind", [np.float16, np.float64, "bfloat16.pt"])
def test_floats_of_any_width_come_in_and_others_are_rows(tmp_path, models, kind):
    root, w_plus = str(tmp_path / "ws"), GOOD.copy()
    w_plus[1, 2, 3] = np.inf
    path = tmp_path / ("w w.pt" if kind == "bfloat16.pt" else "w w.npy")
    if kind == "bfloat16.pt":
        torch.save(torch.from_numpy(w_plus).bfloat16(), path)
    else:
        np.save(path, w_plus.astype(kind))
    (shard,) = plan_import(root, read_import(str(path), "", models, "cpu"), models, "cpu", 64)
    assert invert_faces_shard(root, models, "cpu", shard, 8) == {"ok": 2, "failed": 1}
    store = LatentStore(latent_folder(Folder(root), open_models(models, "cpu")))
    assert store.rows_of(["w-w-00000", "w-w-00001"]) == [0, None]
    np.testing.assert_allclose(store.read([0]).w_plus[0], GOOD[0], rtol=0.01, atol=0.01)


def test_an_import_that_was_lost_is_a_status_of_its_rows(tmp_path, models):
    root = str(tmp_path / "ws")
    (shard,) = plan_import(root, Import(GOOD, ["a", "b", "c"]), models, "cpu", 64)
    (copy,) = (tmp_path / "ws/imports").iterdir()
    copy.unlink()
    assert invert_faces_shard(root, models, "cpu", shard, 8) == {"unreadable": 3}


IMPORTED = RelevanceConfig(num_statistics=50, mode="imported")


def unit_rows(models: str, rows: int | None = None) -> np.ndarray:
    networks = open_models(models, "cpu")
    shape = (len(networks.generator.layout.editable_channels), networks.clip.embedding_dim)
    numbers = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    return (numbers / np.linalg.norm(numbers, axis=1, keepdims=True))[:rows]


def first_layers(models: str) -> int:
    layers = open_models(models, "cpu").generator.layout.layers
    return sum(layer.channels for layer in [one for one in layers if not one.is_torgb][:3])


def take_directions(root: str, file: str, models: str) -> tuple[DirectionStore, int]:
    published = read_directions(file, models, "cpu")
    return keep_directions(root, published, models, "cpu", IMPORTED), published.rows


def test_directions_go_out_as_they_came_in(tmp_path, root, models):
    numbers = unit_rows(models)
    numbers[5] = 0
    np.save(tmp_path / "fs3.npy", numbers)
    for _ in range(2):
        store, rows = take_directions(root, str(tmp_path / "fs3.npy"), models)
        assert rows == len(numbers)
    assert plan_relevance(root, models, "cpu", IMPORTED).pending(MEASURE) == []
    write_directions(store.folder.url, str(tmp_path / "out.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), numbers)
    statistics = style_statistics(open_models(models, "cpu").generator, 50, seed=IMPORTED.seed)
    torch.testing.assert_close(store.read().channel_std, statistics.std)


def test_directions_of_the_first_layers_leave_the_others_still(tmp_path, models):
    rows = first_layers(models)
    np.save(tmp_path / "fs3.npy", unit_rows(models, rows).astype(np.float16))
    store, given = take_directions(str(tmp_path), str(tmp_path / "fs3.npy"), models)
    found = store.read().channel_clip_directions
    assert given == rows < len(found)
    torch.testing.assert_close(found[:rows].norm(dim=1), torch.ones(rows), atol=0.01, rtol=0)
    assert not found[rows:].any()


BROKEN = {
    "objects.npy": (lambda good: np.array([Payload()], object), "expected floats"),
    "rows.npy": (lambda good: good[:-1], "rows, expected"),
    "wide.npy": (lambda good: good[:, :-1], r"got float32 of shape .*expected floats \[C, "),
    "three.npy": (lambda good: good[None], "got float32 of shape"),
    "integers.npy": (lambda good: good.astype(int), "got int64"),
    "long.npy": (lambda good: good * 3, r"row 0 with 3; .*divide each row by its norm"),
    "nan.npy": (lambda good: good * np.nan, "row 0 with nan"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_array_of_directions_is_refused(tmp_path, models, name):
    change, told = BROKEN[name]
    (tmp_path / name).write_bytes(npy(change(unit_rows(models))))
    with pytest.raises(DirectionStoreError, match=rf"{name}: .*{told}"):
        read_directions(str(tmp_path / name), models, "cpu")
    assert not Path("payload-was-run").exists()


def test_other_directions_are_not_taken_for_those_before(tmp_path, models):
    np.save(tmp_path / "one.npy", unit_rows(models))
    np.save(tmp_path / "two.npy", -unit_rows(models))
    root = str(tmp_path)
    take_directions(root, f"{root}/one.npy", models)
    with pytest.raises(DirectionStoreError, match=r"two.npy: got other directions .*; remove"):
        take_directions(root, f"{root}/two.npy", models)


def test_directions_that_were_never_imported_are_missed(tmp_path, models):
    with pytest.raises(DirectionStoreError, match="no imported directions .*import-directions"):
        plan_relevance(str(tmp_path), models, "cpu", IMPORTED)
