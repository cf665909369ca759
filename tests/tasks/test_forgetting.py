"""Forgetting: nothing of one face is left, everything of the others is, stopped where it may be."""

import json
import re
import shutil
import signal
import tarfile
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import zarr
from PIL import Image

from manifests.schemas import FACES
from tasks.checks.verification import Verification
from tasks.edits import edit_pairs_shard
from tasks.forgetting import Forgetting, ForgettingError
from tasks.frozen import freeze_manifest
from tasks.interchange import Import, plan_import
from tasks.inversion import invert_faces_shard
from tasks.latents import LatentStoreError
from tasks.manifest_files import Manifest
from tasks.photos.alignment import plan_photos
from tasks.photos.faces import faces_ledger
from tasks.provenance import read_facts
from tasks.runs import run_ledger, shards_to_do
from tasks.store.folders import Folder
from tasks.traces import Person

from killed_forgetting import forget_until


def forget(root: str, image_id: str) -> list[str]:
    forgetting = Forgetting(root, image_id)
    forgetting.erase()
    found = forgetting.prove(forgetting.files(), lambda _done: None)
    return [f"{trace.url}: {trace.what}" for trace in found]


def told(root: str) -> dict[str, str]:
    """What every file of a folder says, decoded: an own search, that shares nothing with ours."""
    said = {}
    for path in sorted(p for p in Path(root).rglob("*") if p.is_file()):
        content, name = path.read_bytes(), str(path.relative_to(root))
        said[name] = name + repr(content)
        if path.suffix == ".parquet":
            said[name] += repr(pq.read_table(path).to_pylist())
        if path.suffix == ".png":
            said[name] += repr(read_facts(content))
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                for member in tar.getmembers():
                    said[name] += member.name + repr(tar.extractfile(member).read())
    for path in Path(root).rglob("*.zarr"):
        for name, array in zarr.open_group(path, mode="r").arrays():
            if array.dtype.kind not in "fi":
                said[f"{path}/{name}"] = repr(array[:].tolist())
    return said


def findings(ws, run: str, sample: int = 0) -> list[str]:
    check = Verification(ws.run(run).url, "cpu", "", sample, 0)
    phases = (check.check_results, check.check_latents, check.check_edits)
    found = [*check.check_assets(), *(f for phase in phases for f in phase(lambda _done: None))]
    return [str(finding) for finding in found]


def without(table: pa.Table, *names: str) -> list[dict]:
    return [row for row in table.to_pylist() if row["image_id"] not in names]


def state(root: str) -> dict[str, object]:
    """Every file of a workspace by its content; the names of parts are drawn and left out."""
    found = {}
    for path in sorted(p for p in Path(root).rglob("*") if p.is_file()):
        name = re.sub(r"part-(\d+)-\w+", r"part-\1", str(path.relative_to(root)))
        content: object = path.read_bytes()
        if "_commits" in name:
            content = json.loads(path.read_text())
            for part in content["parts"]:
                part["name"] = part["name"][:10]
        found[name] = content
    return found


def test_nothing_of_a_face_is_left(finished):
    name = "carl"
    (finished.run("single") / "report").write("index.html", b"<td>carl</td>")
    assert any(name in text for text in told(finished.root).values())
    digests = set()
    for run in ("single", "tarred"):
        for row in finished.results(run).to_pylist():
            if row["image_id"] == name:
                digests |= {row["pair_id"], row["output_sha256"], row["edit_key"]}
    assert len(digests) == 12
    assert forget(finished.root, name) == []
    for file, text in told(finished.root).items():
        assert not re.search(rf"\b{name}\b", text), file
        assert not any(digest in text for digest in digests), file
    assert not (Path(finished.root) / "runs/single/images" / name).exists()
    assert [p.name for p in Path(finished.root).glob("forgetting*")] == []
    assert (finished.photos / f"{name}.png").exists()


def test_what_is_removed_is_told_by_kind(finished):
    forgetting = Forgetting(finished.root, "carl")
    forgetting.erase()
    # Two runs of one manifest, and of each face a row of its latent and of its photograph.
    assert (forgetting.pairs, forgetting.removed["result rows"]) == (8, 8)
    rows = {"manifest rows": 4, "latent rows": 1, "face rows": 1}
    assert {kind: forgetting.removed[kind] for kind in rows} == rows


def test_everything_of_the_others_stays_and_is_sound(finished):
    before = {run: finished.results(run) for run in ("single", "tarred")}
    (store,) = Path(finished.root).glob("latents/*/w_plus.zarr")
    latents = zarr.open_group(store, mode="r")["w_plus"][:4]
    assert forget(finished.root, "berta") == []
    for run, table in before.items():
        assert findings(finished, run, sample=3) == []
        assert finished.results(run).to_pylist() == without(table, "berta")
        assert json.loads(finished.run(run).read("manifest.json"))["rows"] == 12
        assert run_ledger(finished.run(run)).pending() == []
    # The same command goes on, with a manifest that does not name the face.
    finished.edit("single")
    after = zarr.open_group(store, mode="r")["w_plus"][:4]
    np.testing.assert_array_equal(after[[0, 1, 3]], latents[[0, 1, 3]])
    assert np.isnan(after[2]).all()
    manifest = pq.read_table(Path(finished.root) / "edits.parquet")
    assert len(manifest) == 12


def test_one_face_of_a_photograph_leaves_the_others(finished, tmp_path):
    forgetting = Forgetting(finished.root, "anna")
    assert forgetting.siblings == {"anna.face1"}
    assert forgetting.sources == [str(finished.photos / "anna.png")]
    assert forget(finished.root, "anna") == []
    for text in told(finished.root).values():
        assert not re.search(r"\banna(?!\.face1|\.png|-face1|_face1)\b", text)
    assert findings(finished, "single") == []
    assert {row["image_id"] for row in finished.results("single").to_pylist()} == {
        "anna.face1",
        "berta",
        "carl",
    }
    # Aligning again finds no new photograph; another one of that name gets another id.
    shutil.rmtree(finished.photos / "nobody", ignore_errors=True)
    assert plan_photos(finished.root, str(finished.photos), 8) == []
    Image.new("RGB", (9, 9)).save(tmp_path / "anna.png")
    (shard,) = plan_photos(finished.root, str(tmp_path / "anna.png"), 8)
    assert faces_ledger(finished.root).units(shard)["image_id"][0].as_py().startswith("anna--")
    # The other face goes as well, and the photograph with it.
    assert forget(finished.root, "anna.face1") == []
    (tmp_path / "anna.png").unlink()
    for name, text in told(finished.root).items():
        assert str(finished.photos / "anna.png") not in text, name


def test_again_changes_nothing(finished):
    forget(finished.root, "carl")
    before = state(finished.root)
    again = Forgetting(finished.root, "carl")
    assert not again.is_known
    assert forget(finished.root, "carl") == []
    assert state(finished.root) == before


def test_killed_anywhere_the_same_call_completes_it(kept, finished):
    _, copy = kept
    assert forget(finished.root, "berta") == []
    wanted = state(finished.root)
    killed, context = 0, get_context("forkserver")
    context.set_forkserver_preload(["killed_forgetting"])
    for moment in range(1, 1000, 23):
        shutil.rmtree(finished.root)
        shutil.copytree(copy, finished.root)
        process = context.Process(target=forget_until, args=(finished.root, "berta", moment))
        process.start()
        process.join(200)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        killed += 1
        assert forget(finished.root, "berta") == []
        assert state(finished.root) == wanted
    assert killed > 1


def test_what_a_killed_writer_left_goes_as_well(finished):
    root = Path(finished.root)
    crop = (root / "crops/carl.png").read_bytes()
    (root / "crops/.part-abc").write_bytes(crop[: len(crop) // 2])
    (root / "crops/carl").mkdir()
    (root / "crops/carl/0123abcd.png").write_bytes(crop)
    (path,) = root.glob("runs/single/results/part-00002-*")
    shutil.copy(path, path.with_name("part-00002-dead.parquet"))
    (tar,) = root.glob("runs/tarred/images/shard-00002-*")
    shutil.copy(tar, tar.with_name("shard-00002-dead.tar"))
    assert forget(finished.root, "carl") == []
    assert not any(re.search(r"\bcarl\b", text) for text in told(finished.root).values())


def test_what_is_left_is_told_and_the_call_is_not_done(finished):
    mine = Path(finished.root) / "mine.csv"
    mine.write_text("image_id,target_prompt\ncarl,a smile\n")
    shutil.copy(Path(finished.root) / "crops/carl.png", Path(finished.root) / "best.png")
    assert forget(finished.root, "carl") == [
        f"{finished.root}/best.png: its content",
        f"{mine}: its content",
    ]
    mine.unlink()
    # The digests are still known.
    assert forget(finished.root, "carl") == [f"{finished.root}/best.png: its content"]
    (Path(finished.root) / "best.png").unlink()
    assert forget(finished.root, "carl") == []


def test_words_that_are_no_names_are_no_traces(finished):
    path = Path(finished.root)
    (path / "note.txt").write_text("carlton and carl-2, carl.face1; see /other/carl/x.png\n")
    (path / "card.json").write_text(json.dumps({"target_prompt": "carl"}))
    assert forget(finished.root, "carl") == []


def test_the_same_photograph_under_another_name_is_told(finished):
    ledger = faces_ledger(finished.root)
    (table,) = ledger.results()
    row = next(row for row in table.to_pylist() if row["image_id"] == "carl")
    copy = {"image_id": "karl", "source_uri": "/copies/karl.png"}
    ledger.plan_shard(1, pa.Table.from_pylist([copy]))
    twin = row | copy | {"crop_uri": None, "crop_sha256": None, "status": "too_small"}
    ledger.commit(1, pa.Table.from_pylist([twin], table.schema), {"photos": 1})
    assert Forgetting(finished.root, "carl").duplicates == {"karl"}
    # Its digest is that of the other row as well, which stays.
    assert forget(finished.root, "carl") == []


def test_an_unfinished_run_goes_on_without_the_face(finished):
    finished.edit("half", shards=1)
    assert len(run_ledger(finished.run("half")).pending()) == 2
    assert forget(finished.root, "anna.face1") == []
    ledger = run_ledger(finished.run("half"))
    for shard in ledger.pending():
        edit_pairs_shard(finished.run("half").url, "cpu", shard)
    assert findings(finished, "half") == []
    whole = without(finished.results("single"), "anna.face1")
    assert [r["pair_id"] for r in finished.results("half").to_pylist()] == [
        r["pair_id"] for r in whole
    ]


def test_what_is_superseded_loses_the_face_as_well(finished):
    run, (store,) = finished.run("twice"), Path(finished.root).glob("latents/*/w_plus.zarr")
    w_plus = zarr.open_group(store, mode="r+")["w_plus"]
    row = w_plus[3]
    w_plus[3] = np.nan
    finished.edit("twice")
    w_plus[3] = row
    for shard in shards_to_do(run, ["failed"]):
        edit_pairs_shard(run.url, "cpu", shard, ["failed"])
    # An update drops berta's rows: they are in superseded plans, and in parts that count in part.
    manifest = pq.read_table(finished.folder.url_of("edits.parquet"))
    pq.write_table(
        manifest.filter(pc.not_equal(manifest["image_id"], "berta")), f"{finished.root}/new.parquet"
    )
    freeze_manifest(run, Manifest(f"{finished.root}/new.parquet"), 6, update=True)
    assert "shard-00002.1.json" in (run / "_commits").names()
    assert "shard-00001.1.parquet" in (run / "_plans").names()
    before = finished.results("twice")
    for name in ("carl", "berta"):
        assert forget(finished.root, name) == []
        for file, text in told(finished.root).items():
            assert not re.search(rf"\b{name}\b", text), file
        assert findings(finished, "twice", sample=3) == []
    assert finished.results("twice").to_pylist() == without(before, "carl", "berta")
    assert len(finished.results("twice")) == 8


def test_imported_latents_and_those_of_an_unfinished_shard_go(finished):
    w_plus = np.random.default_rng(1).normal(size=(3, 8, 28)).astype(np.float32)
    latents = Import(w_plus, ["dora", "emil", "fred"])
    shards = plan_import(finished.root, latents, finished.models, "cpu", 64)
    (imported,) = Path(finished.root).glob("imports/*.npy")
    # Pending: whatever a killed writer left in the shard is overwritten.
    (store,) = Path(finished.root).glob("latents/*/w_plus.zarr")
    zarr.open_group(store, mode="r+")["w_plus"][64:66] = 3.0
    assert forget(finished.root, "emil") == []
    assert np.isnan(zarr.open_group(store, mode="r")["w_plus"][64:]).all()
    loaded = np.load(imported)
    assert np.isnan(loaded[1]).all()
    assert np.isfinite(loaded[[0, 2]]).all()
    (shard,) = shards
    assert invert_faces_shard(finished.root, finished.models, "cpu", shard, 8) == {"ok": 2}
    assert forget(finished.root, "fred") == []
    assert np.isnan(np.load(imported)[2]).all()
    assert not any(re.search(r"\b(emil|fred)\b", text) for text in told(finished.root).values())


def test_an_imported_latent_goes_from_a_workspace_that_was_moved(finished, tmp_path):
    latents = Import(np.ones((2, 8, 28), np.float32), ["dora", "emil"])
    plan_import(finished.root, latents, finished.models, "cpu", 64)
    moved = shutil.move(finished.root, tmp_path / "moved")
    assert forget(str(moved), "emil") == []
    (imported,) = Path(moved).glob("imports/*.npy")
    assert np.isnan(np.load(imported)).all(axis=(1, 2)).tolist() == [False, True]


def test_a_latent_that_another_face_has_as_well_stays(finished):
    for names in (["dora", "emil"], ["fred", "gina"]):
        latents = Import(np.ones((2, 8, 28), np.float32), names)
        shards = plan_import(finished.root, latents, finished.models, "cpu", 64)
    (imported,) = Path(finished.root).glob("imports/*.npy")
    stray = imported.with_name("0123456789abcdef.npy")
    shutil.copy(imported, stray)
    assert forget(finished.root, "dora") == []
    assert np.isfinite(np.load(imported)).all()
    # Whose it is nobody can tell.
    assert not stray.exists()
    found = [invert_faces_shard(finished.root, finished.models, "cpu", n, 8) for n in shards]
    assert sum(counts["ok"] for counts in found) == 3
    assert forget(finished.root, "fred") == []
    assert np.isnan(np.load(imported)).all(axis=(1, 2)).tolist() == [True, False]


def test_what_is_told_and_noted_of_photographs_is_not_signed(tmp_path):
    root = str(tmp_path / "ws")
    url = "https://host/in/dora.jpg?X-Amz-Expires=60&X-Amz-Signature=topsecretsignature"
    ledger = faces_ledger(root)
    ledger.plan_shard(0, pa.table({"image_id": ["dora"], "source_uri": [url]}))
    row = dict.fromkeys(FACES.names) | {"image_id": "dora", "source_uri": url, "status": "ok"}
    ledger.commit(0, pa.Table.from_pylist([row], FACES), {"photos": 1})
    forgetting = Forgetting(root, "dora")
    assert forgetting.sources == ["https://host/in/dora.jpg"]
    # Something of hers that is left keeps the note.
    Folder(root).write("more.txt", b"dora")
    assert len(forget(root, "dora")) == 1
    (note,) = Path(root).glob("forgetting-*.json")
    assert "https://host/in/dora.jpg" in note.read_text()
    assert "topsecret" not in note.read_text()


def test_an_inversion_of_an_earlier_workspace_goes(finished):
    old = finished.folder / "inversions"
    old.write("carl.png", b"as it was before stores had folders of their own")
    assert forget(finished.root, "carl") == []
    assert not old.exists("carl.png")


def test_a_run_that_is_named_like_its_folder_is_searched(finished):
    shutil.copytree(f"{finished.root}/runs/single", f"{finished.root}/runs/runs")
    assert forget(finished.root, "carl") == []
    left = run_ledger(Folder(finished.root) / "runs/runs").rows(0)["image_id"].to_pylist()
    assert "carl" not in left


def test_it_works_on_an_object_store(finished, s3_endpoint):
    there = Folder("s3://faces/forgetting")
    for path in finished.folder.files():
        if not path.startswith(("runs/single", "directions")):
            there.write(path, finished.folder.read(path))
    assert forget(there.url, "carl") == []
    assert not any("carl" in path for path in there.files())
    moved = type(finished)(there.url, finished.models, finished.photos)
    assert {row["image_id"] for row in moved.results("tarred").to_pylist()} == {
        "anna",
        "anna.face1",
        "berta",
    }
    check = Verification(moved.run("tarred").url, "cpu", "", 0, 0)
    assert [*check.check_results(lambda _done: None)] == []
    assert [*check.check_latents(lambda _done: None)] == []


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../photos", "a/../../b"])
def test_a_path_is_no_face(finished, name):
    with pytest.raises(ForgettingError, match="expected the name of a face"):
        Forgetting(finished.root, name)


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.string(), pa.large_string(), pa.string_view(), pa.large_binary()),
        *(pa.dictionary(pa.int32(), pa.string()), pa.list_(pa.string())),
    ],
    ids=str,
)
def test_a_name_is_found_in_texts_of_every_type(kind):
    person = Person("carl", frozenset(), frozenset())
    for name in ("carl", "carla"):
        value = (
            [name] if pa.types.is_list(kind) else name.encode() if "binary" in str(kind) else name
        )
        batch = pa.record_batch({"n": [1, 2], "who": pa.array([None, value], kind)})
        assert person.is_in_batch(batch) == (name == "carl")


def test_a_damaged_table_ends_nothing(finished):
    path = Path(finished.root) / "notes.parquet"
    pq.write_table(pa.table({"image_id": ["carl", "anna"], "n": [1, 2]}), path)
    content = path.read_bytes()
    path.write_bytes(content[:-40] + b"?" * 32 + content[-8:])
    assert forget(finished.root, "carl") == []
    assert finished.results("single").num_rows


def test_tables_of_others_keep_their_rows(finished):
    tables = {
        "nobody.parquet": pa.table({"image_id": [None, "anna", "carl"], "n": [1, 2, 3]}),
        "numbers.parquet": pa.table({"image_id": [1, None, 3], "n": [1, 2, 3]}),
        "lists.parquet": pa.table({"image_id": [["carl"], None], "n": [1, 2]}),
    }
    for name, table in tables.items():
        pq.write_table(table, Path(finished.root) / name)
    forget(finished.root, "anna")
    after = {n: pq.read_table(Path(finished.root) / n)["n"].to_pylist() for n in tables}
    assert after == {
        "nobody.parquet": [1, 3],
        "numbers.parquet": [1, 2, 3],
        "lists.parquet": [1, 2],
    }


def test_a_run_outside_that_is_none_is_refused(finished, tmp_path):
    with pytest.raises(ForgettingError, match=r"holds no run\.json, expected the folder of a run"):
        Forgetting(finished.root, "anna", [str(tmp_path / "mistyped")])


def test_a_store_that_cannot_be_searched_is_named_and_mended(finished):
    (chunk,) = Path(finished.root).glob("latents/*/w_plus.zarr/image_id/c/*")
    chunk.write_bytes(chunk.read_bytes()[:5])
    with pytest.raises(LatentStoreError, match="styleclip invert` with --redo-damaged"):
        forget(finished.root, "anna")
    invert_faces_shard(finished.root, finished.models, "cpu", 0, 8, redo_damaged=True)
    assert forget(finished.root, "anna") == []
