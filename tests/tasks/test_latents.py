"""The W+ store: whole shards, NaN where nothing is, bound to its networks."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zarr
from PIL import Image

import tasks.inversion
from manifests.schemas import FACES, LATENT_FAILURES
from tasks.inversion import failed_latents, invert_faces_shard, shards_to_invert
from tasks.latents import FACE_UNITS, LatentStore, LatentStoreError, latent_folder
from tasks.models import open_models
from tasks.photos.faces import faces_ledger
from tasks.store.faults import StoreError
from tasks.store.folders import Folder, sha256
from tasks.store.ledger import Commit, Ledger

SHARD = 64


def planned(root: str, models: str, crops: list[tuple[str, str]]) -> LatentStore:
    networks = open_models(models, "cpu")
    store = LatentStore(latent_folder(Folder(root), networks))
    store.create(networks, SHARD)
    rows = [{"image_id": name, "crop_uri": uri} for name, uri in crops]
    store.ledger.extend(pa.Table.from_pylist(rows, FACE_UNITS), "image_id", store.shard_size)
    store.grow()
    return store


@pytest.fixture
def crops(crop_folder) -> list[tuple[str, str]]:
    return [(f"face{i}", str(crop_folder / f"crop{i}.png")) for i in range(3)]


def test_faces_are_inverted_once_and_found_by_name(root, models, crops):
    store = planned(root, models, crops)
    counts = invert_faces_shard(root, models, "cpu", 0, batch_size=2)
    assert counts == {"ok": 3}
    assert store.ledger.pending() == []
    assert store.rows_of(["face2", "stranger", "face0"]) == [2, None, 0]
    latents = store.read([2, 0, 2])
    assert latents.w_plus.shape == (3, 8, 28)
    np.testing.assert_array_equal(latents.w_plus[0], latents.w_plus[2])
    np.testing.assert_allclose(np.linalg.norm(latents.source_clip, axis=1), 1, atol=1e-5)
    assert (Folder(root) / "inversions" / store.folder.name).names() == [
        f"face{i}.png" for i in range(3)
    ]


def test_a_latent_is_the_same_to_the_last_bit_whatever_the_batch_size(tmp_path, models, crops):
    found = []
    for size in (1, 2, 3):
        root = str(tmp_path / f"ws{size}")
        store = planned(root, models, crops)
        invert_faces_shard(root, models, "cpu", 0, batch_size=size)
        found.append(store.read([0, 1, 2]).digests())
    assert found[0] == found[1] == found[2]


def test_new_faces_go_into_a_new_shard(tmp_path, models, crops):
    root = str(tmp_path / "ws")
    planned(root, models, crops[:2])
    invert_faces_shard(root, models, "cpu", 0, batch_size=8)
    store = planned(root, models, crops)
    assert store.ledger.pending() == [1]
    invert_faces_shard(root, models, "cpu", 1, batch_size=8)
    assert store.rows_of(["face0", "face1", "face2"]) == [0, 1, SHARD]


def test_a_lost_crop_is_a_row_and_not_the_end(tmp_path, models, crops):
    root = str(tmp_path / "ws")
    store = planned(root, models, [("gone", str(tmp_path / "gone.png")), *crops])
    assert invert_faces_shard(root, models, "cpu", 0, batch_size=8) == {"unreadable": 1, "ok": 3}
    assert store.rows_of(["gone", "face0"]) == [None, 1]
    ((name, reason),) = failed_latents(store.ledger)
    assert (name, reason.partition(":")[0]) == ("gone", "unreadable")
    assert "gone.png" in reason
    assert [*failed_latents(store.ledger, [1])] == []


def test_a_crop_that_is_cut_off_is_a_row_too(tmp_path, models, crops):
    whole, root = Path(crops[0][1]).read_bytes(), str(tmp_path / "ws")
    damaged = {"short": whole[: len(whole) // 2], "torn": whole[:60] + b"?" + whole[61:]}
    for name, content in damaged.items():
        (tmp_path / f"{name}.png").write_bytes(content)
    torn = [(name, str(tmp_path / f"{name}.png")) for name in damaged]
    store = planned(root, models, [*torn, crops[0]])
    assert invert_faces_shard(root, models, "cpu", 0, batch_size=8) == {"unreadable": 2, "ok": 1}
    said = store.ledger.rows(0)["error"].to_pylist()[0]
    assert f"{tmp_path}/short.png" in said
    assert "--retry-failed" in said


def test_what_failed_is_inverted_again_and_the_others_stay(tmp_path, models, crops):
    root, late = str(tmp_path / "ws"), tmp_path / "late.png"
    store = planned(root, models, [crops[0], ("late", str(late)), *crops[1:]])
    assert invert_faces_shard(root, models, "cpu", 0, batch_size=8) == {"ok": 3, "unreadable": 1}
    before = store.read([0, 2, 3])
    assert shards_to_invert(store.ledger, ["failed"]) == []
    assert shards_to_invert(store.ledger, LATENT_FAILURES) == [0]
    assert invert_faces_shard(root, models, "cpu", 0, 8, ["unreadable"]) == {"unreadable": 1}
    late.write_bytes(Path(crops[0][1]).read_bytes())
    assert invert_faces_shard(root, models, "cpu", 0, 8, ["failed"]) == {}
    assert invert_faces_shard(root, models, "cpu", 0, 8, ["unreadable"]) == {"ok": 1}
    assert store.rows_of(["face0", "late", "face1", "face2"]) == [0, 1, 2, 3]
    after = store.read([0, 1, 2, 3])
    np.testing.assert_array_equal(after.w_plus[[0, 2, 3]], before.w_plus)
    np.testing.assert_array_equal(after.w_plus[1], after.w_plus[0])
    assert store.digest(0) == store.ledger.read_commit(0).facts["sha256"]
    stored = store.ledger.rows(0)["stored_sha256"].to_pylist()
    assert stored == after.digests()
    names = zarr.open_group(f"{store.folder.url}/w_plus.zarr")["image_id"][:4]
    assert list(names) == ["face0", "late", "face1", "face2"]


def test_a_lost_chunk_is_named_and_not_read_as_a_latent(tmp_path, models, crops):
    root = str(tmp_path / "ws")
    store = planned(root, models, crops)
    invert_faces_shard(root, models, "cpu", 0, batch_size=8)
    for path in (tmp_path / "ws").rglob("w_plus/c/*/*/*"):
        path.unlink()
    with pytest.raises(LatentStoreError, match=r"got damaged rows \[1\]"):
        store.read([1])


def test_a_value_that_changed_since_the_commit_is_not_read_as_a_latent(tmp_path, models, crops):
    root = str(tmp_path / "ws")
    store = planned(root, models, crops)
    invert_faces_shard(root, models, "cpu", 0, batch_size=8)
    group = zarr.open_group(f"{store.folder.url}/w_plus.zarr", mode="r+")
    group["w_plus"][1, 3, 5] = group["w_plus"][1, 3, 5] + 1
    found, errors = store.read_usable([0, 1, 2])
    assert len(found.w_plus) == 2
    assert (errors[0], errors[2]) == ("", "")
    assert "row 1 of" in errors[1]
    assert f"expected {store.ledger.rows(0)['stored_sha256'][1]}; " in errors[1]


def test_what_was_not_written_holds_nan(tmp_path, models, crops):
    root = str(tmp_path / "ws")
    store = planned(root, models, crops)
    invert_faces_shard(root, models, "cpu", 0, batch_size=8)
    group = zarr.open_group(store.folder.zarr_store("w_plus.zarr"), mode="r")
    assert np.isnan(group["w_plus"][3:]).all()
    assert group["image_id"][:4].tolist() == ["face0", "face1", "face2", ""]


def test_a_store_of_other_networks_is_refused(tmp_path, models, crops):
    root = str(tmp_path / "ws")
    store = planned(root, models, crops)
    zarr.open_group(store.folder.zarr_store("w_plus.zarr"), mode="r+").attrs.update(
        generator_fingerprint="another"
    )
    with pytest.raises(LatentStoreError, match="generator_fingerprint differ"):
        store.create(open_models(models, "cpu"), SHARD)


@pytest.mark.parametrize("files", [0, 1, 4, 8])
def test_a_store_whose_making_was_stopped_is_made_on(tmp_path, stopped_after, models, crops, files):
    root = str(tmp_path / "ws")
    with stopped_after(files):
        planned(root, models, crops)
    # Another shard size than the one that was begun with.
    networks = open_models(models, "cpu")
    LatentStore(latent_folder(Folder(root), networks)).create(networks, 2 * SHARD)
    store = planned(root, models, crops)
    assert store.shard_size == (SHARD if files else 2 * SHARD)
    assert invert_faces_shard(root, models, "cpu", 0, batch_size=8) == {"ok": 3}
    assert np.isfinite(store.read([0, 1, 2]).w_plus).all()


def test_a_full_disk_while_rows_are_planned_is_told_with_its_remedy(
    tmp_path, monkeypatch, models, crops
):
    sync = os.fsync

    def full(handle: int) -> None:
        # Of Zarr alone: what the length of its arrays says.
        if "w_plus.zarr/status" in str(Path(f"/proc/self/fd/{handle}").readlink()):
            raise OSError(28, "No space left on device")
        sync(handle)

    store = planned(str(tmp_path / "ws"), models, [])
    units = [{"image_id": name, "crop_uri": uri} for name, uri in crops]
    store.ledger.extend(pa.Table.from_pylist(units, FACE_UNITS), "image_id", store.shard_size)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"status/zarr.json: the store is full .*make room"):
        store.grow()
    monkeypatch.undo()
    store.grow()
    assert invert_faces_shard(str(tmp_path / "ws"), models, "cpu", 0, batch_size=8) == {"ok": 3}


def test_a_late_writer_of_the_length_hides_no_row(tmp_path, models, crops):
    root = str(tmp_path / "ws")
    planned(root, models, crops[:2])
    invert_faces_shard(root, models, "cpu", 0, batch_size=8)
    store = planned(root, models, crops)
    # Another process read the plans before the last shard was planned, and writes only now.
    for _, array in zarr.open_group(store.folder.zarr_store("w_plus.zarr"), mode="r+").arrays():
        array.resize((SHARD, *array.shape[1:]))
    invert_faces_shard(root, models, "cpu", 1, batch_size=8)
    assert np.isfinite(store.read([0, SHARD]).w_plus).all()
    assert store.digest(1) == store.ledger.read_commit(1).facts["sha256"]


def test_a_shard_that_another_process_committed_is_not_done_again(tmp_path, models, crops):
    root = str(tmp_path / "ws")
    store = planned(root, models, crops)
    invert_faces_shard(root, models, "cpu", 0, batch_size=8)
    before = store.digest(0)
    assert invert_faces_shard(root, models, "cpu", 0, batch_size=8) == {}
    assert store.digest(0) == before


@pytest.mark.parametrize("name", ["w_plus", "source_clip", "inversion_identity"])
def test_a_lost_chunk_of_any_array_is_an_error_that_names_its_rows(tmp_path, models, crops, name):
    root = str(tmp_path / "ws")
    store = planned(root, models, crops)
    invert_faces_shard(root, models, "cpu", 0, batch_size=8)
    (chunk,) = [p for p in tmp_path.glob(f"ws/latents/*/w_plus.zarr/{name}/c/**/*") if p.is_file()]
    chunk.unlink()
    with pytest.raises(LatentStoreError, match=r"got damaged rows \[0, 1, 2\].*restore"):
        store.read([0, 1, 2])


def test_a_damaged_store_is_an_error_of_ours(tmp_path, models, crops):
    root = str(tmp_path / "ws")
    store = planned(root, models, crops)
    (path,) = tmp_path.glob("ws/latents/*/w_plus.zarr/w_plus/zarr.json")
    for content in ("{", "{}", path.read_text().replace("float32", "float64")):
        path.write_text(content)
        with pytest.raises(LatentStoreError, match="got a damaged store .* restore it"):
            store.read([0])


def test_latents_that_are_new_are_found_in_the_same_process(tmp_path, models, crops):
    root = str(tmp_path / "ws")
    store = planned(root, models, crops)
    assert store.rows_of(["face0"]) == [None]
    invert_faces_shard(root, models, "cpu", 0, batch_size=8)
    assert store.rows_of(["face0"]) == [0]


@pytest.mark.parametrize("size", [0, 50, -1])
def test_a_damaged_chunk_is_named_and_inverted_again(tmp_path, models, crops, size):
    root = str(tmp_path / "ws")
    store = planned(root, models, crops)
    invert_faces_shard(root, models, "cpu", 0, batch_size=8)
    whole = store.read([0, 1, 2])
    (chunk,) = tmp_path.glob("ws/latents/*/w_plus.zarr/w_plus/c/0/0/0")
    chunk.write_bytes(chunk.read_bytes()[:size])
    with pytest.raises(LatentStoreError, match="or give `styleclip invert` with --redo-damaged"):
        store.read([1])
    done = invert_faces_shard(root, models, "cpu", 0, 8, redo_damaged=True)
    assert done == {"ok": 3}
    np.testing.assert_array_equal(store.read([0, 1, 2]).w_plus, whole.w_plus)


def test_a_face_that_failed_stands_in_nobody_s_way(tmp_path, models, crops, monkeypatch):
    root, encode = str(tmp_path / "ws"), tasks.inversion._encode
    store = planned(root, models, crops)

    def encode_one_to_nan(*arguments):
        w_plus, sources = encode(*arguments)
        w_plus[1] = np.nan
        return w_plus, sources

    with monkeypatch.context() as patch:
        patch.setattr(tasks.inversion, "_encode", encode_one_to_nan)
        assert invert_faces_shard(root, models, "cpu", 0, 8) == {"ok": 2, "failed": 1}
    (chunk,) = tmp_path.glob("ws/latents/*/w_plus.zarr/w_plus/c/0/0/0")
    chunk.write_bytes(chunk.read_bytes()[:50])
    assert invert_faces_shard(root, models, "cpu", 0, 8, redo_damaged=True) == {"ok": 2}
    assert store.ledger.rows(0)["status"].to_pylist() == ["ok", "failed", "ok"]
    assert len(store.read([0, 2]).w_plus) == 2
    assert invert_faces_shard(root, models, "cpu", 0, 8, retry=["failed"]) == {"ok": 1}
    assert len(store.read([0, 1, 2]).w_plus) == 3


def test_mending_a_shard_reads_no_other(tmp_path, models, crops, monkeypatch):
    root, read, parts = str(tmp_path / "ws"), Ledger._read_part, list[str]()
    store = planned(root, models, [(f"face{i}", crops[0][1]) for i in range(3 * SHARD)])
    for shard in range(3):
        invert_faces_shard(root, models, "cpu", shard, 64)
        store._array("w_plus", "r+", 3 * SHARD)[shard * SHARD] = 0
    monkeypatch.setattr(Ledger, "_read_part", lambda s, part: parts.append(part) or read(s, part))
    assert invert_faces_shard(root, models, "cpu", 1, 64, redo_damaged=True) == {"ok": 1}
    assert {part.name.split("-")[1] for part in parts} == {"00001"}


def test_of_two_that_mend_a_shard_neither_commits_over_the_other_s_numbers(
    tmp_path, models, crops, monkeypatch
):
    root, batch = str(tmp_path / "ws"), tasks.inversion._invert_batch
    store = planned(root, models, [*crops, ("gone", str(tmp_path / "gone.png"))])
    ledger = faces_ledger(root)

    def align(after: Commit | None = None) -> Commit:
        blank = dict.fromkeys(FACES.names) | {"status": "ok"}
        rows = [
            blank
            | {"image_id": name, "source_uri": name, "crop_uri": uri}
            | {"crop_sha256": sha256(Path(uri).read_bytes())}
            for name, uri in crops
        ]
        return ledger.commit(0, pa.Table.from_pylist(rows, FACES), after=after)

    first = align()
    invert_faces_shard(root, models, "cpu", 0, 8)
    # A crop that was cut again, as on another machine.
    with Image.open(crops[0][1]) as image:
        image.rotate(90).save(crops[0][1])
    align(first)

    def mend_meanwhile(*values):
        monkeypatch.setattr(tasks.inversion, "_invert_batch", batch)
        assert invert_faces_shard(root, models, "cpu", 0, 8, redo_damaged=True) == {"ok": 1}
        return batch(*values)

    monkeypatch.setattr(tasks.inversion, "_invert_batch", mend_meanwhile)
    retried = invert_faces_shard(root, models, "cpu", 0, 8, retry=["unreadable"])
    assert retried == {"unreadable": 1}
    rows = store.ledger.rows(0).to_pylist()
    assert rows[0]["source_sha256"] == sha256(Path(crops[0][1]).read_bytes())
    assert store.read_usable([0, 1, 2])[1] == ["", "", ""]
