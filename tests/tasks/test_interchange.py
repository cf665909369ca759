"""Latents of other tools: files of strangers, believed as far as their bytes go."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.interchange import plan_import
from tasks.inversion import invert_faces_shard
from tasks.latents import LatentStore, LatentStoreError, latent_folder
from tasks.models import open_models
from tasks.storage import Folder

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
        plan_import(str(tmp_path / "ws"), str(path), None, models, "cpu", 64)
    assert not Path("payload-was-run").exists()
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize("bad", ["../up", "/etc/x", "a b", "\x1b[2J", "x" * 200, "a.face1", "anna"])
def test_names_that_are_no_image_ids_are_refused(tmp_path, models, bad):
    path = tmp_path / "w.npy"
    np.save(path, GOOD)
    with pytest.raises(LatentStoreError, match=r"w.npy, name 2: got .*; rename (it|one)"):
        plan_import(str(tmp_path), str(path), ["anna", bad, "carl"], models, "cpu", 64)


@pytest.mark.parametrize("kind", [np.float16, np.float64, "bfloat16.pt"])
def test_floats_of_any_width_come_in_and_others_are_rows(tmp_path, models, kind):
    root, w_plus = str(tmp_path / "ws"), GOOD.copy()
    w_plus[1, 2, 3] = np.inf
    path = tmp_path / ("w w.pt" if kind == "bfloat16.pt" else "w w.npy")
    if kind == "bfloat16.pt":
        torch.save(torch.from_numpy(w_plus).bfloat16(), path)
    else:
        np.save(path, w_plus.astype(kind))
    (shard,) = plan_import(root, str(path), None, models, "cpu", 64)
    assert invert_faces_shard(root, models, "cpu", shard, 8) == {"ok": 2, "failed": 1}
    store = LatentStore(latent_folder(Folder(root), open_models(models, "cpu")))
    assert store.rows_of(["w-w-00000", "w-w-00001"]) == [0, None]
    np.testing.assert_allclose(store.read([0]).w_plus[0], GOOD[0], rtol=0.01, atol=0.01)


def test_an_import_that_was_lost_is_a_status_of_its_rows(tmp_path, models):
    np.save(tmp_path / "w.npy", GOOD)
    root = str(tmp_path / "ws")
    (shard,) = plan_import(root, str(tmp_path / "w.npy"), None, models, "cpu", 64)
    (copy,) = (tmp_path / "ws/imports").iterdir()
    copy.unlink()
    assert invert_faces_shard(root, models, "cpu", shard, 8) == {"unreadable": 3}
