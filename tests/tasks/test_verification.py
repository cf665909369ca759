"""Verification: a sound run has no findings, and every kind of damage has one that names it."""

import io
import json
import os
import shlex
import shutil
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from forging import forge
from PIL import Image

import tasks.edits
import tasks.inversion
from manifests.schemas import FACES, LATENTS, RESULTS
from styleclip_ops.pictures import tensor_to_images
from tasks.bundles import read_bundle
from tasks.checks.verification import Verification
from tasks.edits import edit_pairs_shard
from tasks.inversion import invert_faces_shard
from tasks.mappers import MapperConfig, train_prompt_mapper
from tasks.photos.faces import faces_ledger, outdated_faces
from tasks.runs import read_settings, run_ledger, shards_to_do, store_of
from tasks.store.folders import Folder, sha256
from tasks.store.ledger import Ledger


def findings(ws, run: str = "single", sample: int = 0, **options) -> list[str]:
    given = {"device": "cpu", "models": "", "seed": 0} | options
    check = Verification(ws.run(run).url, sample=sample, **given)
    found = [*check.check_assets(), *check.check_faces(), *check.check_leftovers()]
    for phase in (check.check_results, check.check_latents, check.check_edits):
        found += phase(lambda _done: None)
    findings.counts = check.counts
    return [str(finding) for finding in found]


def one(found: list[str]) -> str:
    assert len(found) == 1, found
    return found[0]


def a_row(ws, run: str = "single", method: str = "global") -> dict:
    return next(row for row in ws.results(run).to_pylist() if row["method"] == method)


def forged(ws, change, run: str = "single") -> None:
    """Change the rows of shard 0 of a run, and its commit so that the digests agree."""
    forge(run_ledger(ws.run(run)), change)


@pytest.mark.parametrize("run", ["single", "tarred"])
def test_a_sound_run_has_no_findings_and_the_same_pixels(finished, run):
    assert findings(finished, run, sample=6) == []
    counted = findings.counts
    assert (counted["rows"], counted["images"], counted["latents"]) == (16, 16, 4)
    assert counted["rendered again"] == 6


def test_a_flipped_byte_in_an_image(finished):
    path = Path(a_row(finished)["output_uri"])
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    found = one(findings(finished))
    assert f"image {path}: got sha256" in found
    assert "restore it from a copy" in found


def test_a_removed_image(finished):
    path = Path(a_row(finished)["output_uri"])
    path.unlink()
    assert f"image {path}: got no such file" in one(findings(finished))


def test_a_flipped_byte_in_a_tar(finished):
    place, _, member = a_row(finished, "tarred")["output_uri"].partition("#")
    with tarfile.open(place) as tar:
        at = tar.getmember(member).offset_data + 100
    content = bytearray(Path(place).read_bytes())
    content[at] ^= 1
    Path(place).write_bytes(content)
    assert f"{member}: got sha256" in one(findings(finished, "tarred"))


def test_a_truncated_tar(finished):
    place = Path(a_row(finished, "tarred")["output_uri"].partition("#")[0])
    place.write_bytes(place.read_bytes()[:600])
    found = findings(finished, "tarred")
    assert len(found) == 6
    assert all("got no such file" in finding for finding in found)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"PAR1 half")])
def test_a_removed_or_truncated_part(finished, damage):
    ledger = run_ledger(finished.run("single"))
    damage(Path(ledger.folder.url) / "results" / ledger.read_commit(1).parts[0].name)
    assert "expected the" in one(findings(finished))


def test_a_doubled_row(finished):
    forged(finished, lambda table: pa.concat_tables([table, table.slice(0, 1)]))
    found = one(findings(finished))
    assert "got 7 rows: doubled" in found
    assert a_row(finished)["pair_id"] in found


def test_a_row_that_took_the_place_of_another(finished):
    forged(finished, lambda table: pa.concat_tables([table.slice(0, 5), table.slice(0, 1)]))
    assert "doubled" in one(findings(finished))
    assert "missing" in one(findings(finished))


def test_a_changed_strength(finished):
    def change(table):
        alphas = pa.array([9.0, *table["alpha"].to_pylist()[1:]])
        return table.set_column(table.schema.get_field_index("alpha"), "alpha", alphas)

    forged(finished, change)
    assert "got other alpha, expected those of the manifest" in one(findings(finished))


def test_a_pair_in_two_shards(finished):
    folder = Path(finished.run("single").url)
    shutil.copy(folder / "_plans/shard-00000.parquet", folder / "_plans/shard-00001.parquet")
    found = findings(finished)
    assert any("in rows 1 and 7 of the run, expected every pair once" in f for f in found)
    assert any("frozen manifest" in f and "sha256" in f for f in found)


def test_a_missing_commit_and_a_missing_plan(finished):
    folder = finished.run("single")
    (name,) = [n for n in (folder / "_commits").names() if "00001" in n]
    (folder / "_commits").remove(name)
    lacking = one(findings(finished))
    assert "got results without a commit, expected a commit that names them" in lacking
    assert "give the command that began the run again" in lacking
    assert findings.counts["waiting"] == 0
    (folder / "_plans").remove("shard-00002.parquet")
    orphan, still_lacking = findings(finished)
    assert "got a commit without a plan" in orphan
    assert still_lacking == lacking


def test_a_shard_that_is_not_done(finished):
    folder = finished.run("single")
    for place, mark in (("_commits", "shard-00001"), ("results", "part-00001")):
        (name,) = [n for n in (folder / place).names() if n.startswith(mark)]
        (folder / place).remove(name)
    told = one(findings(finished))
    assert "got none yet of 1 of 3 shards, expected those of all" in told
    assert "give the command that began the run again" in told
    assert (findings.counts["waiting"], findings.counts["shards"]) == (6, 2)


def test_a_changed_latent(finished):
    array = finished.group("latents")["w_plus"]
    array[2] = array[2] + np.float32(0.5)
    found = findings(finished, sample=16)
    assert "latent of berta" in found[0]
    assert "values of sha256" in found[0]
    # The edits of berta cannot be made again.
    assert len([f for f in found if "of berta: got status failed" in f]) == 4
    assert len(found) == 5


def test_a_lost_latent(finished):
    finished.group("latents")["w_plus"][1] = np.nan
    found = findings(finished, sample=16)
    assert "latent of anna.face1" in found[0]
    assert "got NaN or infinity" in found[0]
    # The other edits are rendered again all the same.
    assert len(found) == 5
    assert all("of anna.face1: got status failed" in f for f in found[1:])


@pytest.mark.parametrize("damage", ["value", "chunk", "file", "text", "picture"])
def test_damaged_latents_are_inverted_again(finished, damage):
    before = finished.group("latents")["w_plus"][:4]
    (place,) = Path(finished.root).glob("latents/*/w_plus.zarr/w_plus/c")
    if damage == "value":
        finished.group("latents")["w_plus"][2] = before[1]
    elif damage == "text":
        finished.group("latents")["image_id"][2] = "nobody"
    elif damage == "picture":
        (picture,) = Path(finished.root).glob("inversions/*/anna.png")
        content = bytearray(picture.read_bytes())
        content[len(content) // 2] ^= 1
        picture.write_bytes(content)
    elif damage == "chunk":
        (shard,) = (path for path in place.rglob("*") if path.is_file())
        content = bytearray(shard.read_bytes())
        content[40:90] = bytes(50)
        shard.write_bytes(content)
    else:
        shutil.rmtree(place)
    assert findings(finished) != []
    again = {"redo_damaged": True}
    done = invert_faces_shard(finished.root, finished.models, "cpu", 0, 8, **again)
    assert done == {"ok": 4 if damage in ("chunk", "file") else 1}
    assert findings(finished) == []
    np.testing.assert_array_equal(finished.group("latents")["w_plus"][:4], before)
    assert invert_faces_shard(finished.root, finished.models, "cpu", 0, 8, **again) == {}


@pytest.mark.parametrize("run", ["single", "tarred"])
def test_damaged_pictures_are_made_again(finished, run):
    before, place = finished.results(run), finished.run(run)
    for uri in before["output_uri"].to_pylist()[:2]:
        path = Path(uri.partition("#")[0])
        path.write_bytes(path.read_bytes()[:100])
    assert findings(finished, run) != []
    counts = [edit_pairs_shard(place.url, "cpu", shard, redo_damaged=True) for shard in range(3)]
    # One tar holds the six pictures of a shard.
    assert counts == [{"ok": 2 if run == "single" else 6}, {}, {}]
    assert findings(finished, run) == []
    assert finished.results(run)["output_sha256"].equals(before["output_sha256"])


def test_a_picture_in_the_place_of_a_crop_is_not_inverted(finished):
    crops, before = Path(finished.root) / "crops", finished.group("latents")["w_plus"][:4]
    crop = (crops / "carl.png").read_bytes()
    shutil.copy(crops / "anna.png", crops / "carl.png")
    assert f"crop {crops / 'carl.png'}: got sha256" in one(findings(finished))
    again = {"redo_damaged": True}
    assert invert_faces_shard(finished.root, finished.models, "cpu", 0, 8, **again) == {}
    np.testing.assert_array_equal(finished.group("latents")["w_plus"][:4], before)
    # Nor is it where the latent is lost, now or later.
    finished.group("latents")["w_plus"][3] = np.nan
    for options in ({"redo_damaged": True}, {"retry": ["unreadable"]}):
        done = invert_faces_shard(finished.root, finished.models, "cpu", 0, 8, **options)
        assert done == {"unreadable": 1}
        assert np.isnan(finished.group("latents")["w_plus"][3]).all()
    (crops / "carl.png").write_bytes(crop)
    retry = {"retry": ["unreadable"]}
    assert invert_faces_shard(finished.root, finished.models, "cpu", 0, 8, **retry) == {"ok": 1}
    np.testing.assert_array_equal(finished.group("latents")["w_plus"][:4], before)
    assert findings(finished) == []


def test_edits_follow_a_latent_that_is_another_since(finished):
    store = store_of(read_settings(finished.run("single")))
    before = finished.results("single")
    assert store.digests_of(before["image_id"].to_pylist()) == before["latent_sha256"].to_pylist()
    # As where a crop is cut again on another machine.
    crop = Path(finished.root) / "crops/carl.png"
    with Image.open(crop) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(crop)
    digest = sha256(crop.read_bytes())

    def recut(rows: pa.Table) -> pa.Table:
        known = rows.to_pylist()
        next(row for row in known if row["image_id"] == "carl")["crop_sha256"] = digest
        return pa.Table.from_pylist(known, rows.schema)

    forge(faces_ledger(finished.root), recut)
    again = {"redo_damaged": True}
    assert invert_faces_shard(finished.root, finished.models, "cpu", 0, 8, **again) == {"ok": 1}
    assert "edits of carl: got some of a latent with sha256" in one(findings(finished, sample=16))
    assert findings.counts["rendered again"] == 12
    counts = [edit_pairs_shard(finished.run("single").url, "cpu", n, **again) for n in range(3)]
    assert sum(map(Counter, counts), Counter()) == {"ok": 4}
    assert findings(finished, sample=16) == []
    after = finished.results("single")
    changed = pc.not_equal(before["output_sha256"], after["output_sha256"])
    assert {*before["image_id"].filter(changed).to_pylist()} == {"carl"}
    assert not {*before["edit_key"].filter(changed).to_pylist()} & {*after["edit_key"].to_pylist()}


def test_a_lost_picture_is_drawn_from_its_latent(finished, monkeypatch):
    (picture,) = Path(finished.root).glob("inversions/*/carl.png")
    before = picture.read_bytes()
    picture.unlink()
    # Another machine would invert the crop otherwise, and outdate its edits.
    monkeypatch.setattr(tasks.inversion, "_encode", None)
    again = {"redo_damaged": True}
    assert invert_faces_shard(finished.root, finished.models, "cpu", 0, 8, **again) == {"ok": 1}
    assert picture.read_bytes() == before
    assert findings(finished, sample=16) == []


@pytest.mark.parametrize("stage", ["faces", "latents/*", "runs/single"])
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_commit_beneath_a_later_one_is_named(finished, stage, lost):
    (folder,) = Path(finished.root).glob(stage)
    schema = {"faces": FACES, "runs/single": RESULTS}.get(stage, LATENTS)
    ledger = Ledger(Folder(str(folder)), schema, key="pair_id" if schema is RESULTS else "")
    for _ in range(2):
        ledger.commit(0, ledger.rows(0), after=ledger.read_commit(0))
    (folder / "_commits" / ["shard-00000.json", "shard-00000.1.json"][lost]).unlink()
    told = f"shard 0 of {folder}: got a commit that superseded one which is lost"
    assert any(finding.startswith(told) for finding in findings(finished))
    assert ledger.is_committed(0)
    assert ledger.read_commit(0).generation == (2 if lost == 0 else 0)
    assert outdated_faces(finished.root, str(finished.photos)) == ([], [])


def test_rows_from_before_latents_had_digests_are_read(finished):
    forged(finished, lambda rows: rows.drop_columns(["latent_sha256"]))
    assert finished.results("single")["latent_sha256"].null_count == 6
    assert findings(finished, sample=16) == []
    assert edit_pairs_shard(finished.run("single").url, "cpu", 0, redo_damaged=True) == {}


@pytest.mark.parametrize(
    "damage", ["crop", "crop and inversion", "crop and texts", "crop and latent"]
)
@pytest.mark.parametrize("there", ["half", "another"])
def test_a_sound_latent_outlives_its_crop(finished, damage, there):
    before, crops = finished.group("latents")["w_plus"][:4], Path(finished.root) / "crops"
    another = (crops / "anna.png").read_bytes()
    (crops / "carl.png").write_bytes(another if there == "another" else b"half")
    (picture,) = Path(finished.root).glob("inversions/*/carl.png")
    if damage in ("crop and inversion", "crop and texts"):
        picture.unlink()
    if damage == "crop and texts":
        finished.group("latents")["image_id"][3] = "somebody"
    elif damage == "crop and latent":
        finished.group("latents")["w_plus"][3] = before[1]
    again = {"redo_damaged": True}
    done = invert_faces_shard(finished.root, finished.models, "cpu", 0, 8, **again)
    after = finished.group("latents")["w_plus"][:4]
    np.testing.assert_array_equal(after[:3], before[:3])
    if damage == "crop and latent":
        assert done == {"unreadable": 1}
        assert np.isnan(after[3]).all()
    else:
        # A crop alone is what `align` makes again, and the picture is drawn from the latent.
        assert done == ({} if damage == "crop" else {"ok": 1})
        assert picture.exists()
        assert finished.group("latents")["image_id"][3] == "carl"
        np.testing.assert_array_equal(after[3], before[3])
        assert f"crop {crops / 'carl.png'}" in one(findings(finished, sample=16))


def test_a_replaced_mapper(finished):
    (path,) = Path(finished.root).glob("mappers/*/mapper.safetensors")
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    assert f"mapper {path.parent}: got {sha256(bytes(content))[:16]}" in one(findings(finished))


def test_a_mapper_that_is_gone(finished):
    (path,) = Path(finished.root).glob("mappers/*/mapper.safetensors")
    path.unlink()
    told = [str(found) for found in findings(finished)]
    assert any(f"mapper {path.parent}: got no finished mapper" in text for text in told)


def test_a_changed_direction_store(finished):
    array = finished.group("directions")["channel_clip_directions"]
    array[7] = -array[7]
    assert "directions" in one(findings(finished))
    assert "restore the store from a copy" in one(findings(finished))


def test_other_weights(finished, tmp_path):
    bundle = read_bundle(finished.models)
    values = {role: {"uri": bundle.locate(role)} for role in bundle.weights}
    with Image.new("RGB", (8, 8)) as image:
        image.save(tmp_path / "clip.png")
    values["identity"] = {"uri": str(tmp_path / "clip.png")}
    (tmp_path / "other.json").write_text(json.dumps(values))
    found = one(findings(finished, models=str(tmp_path / "other.json")))
    assert "weights of identity" in found
    assert "styleclip weights add" in found


def test_a_workspace_may_be_moved(finished, tmp_path):
    shutil.copytree(finished.root, tmp_path / "moved")
    shutil.rmtree(finished.root)
    moved = type(finished)(str(tmp_path / "moved"), finished.models, finished.photos)
    assert findings(moved, sample=6) == []
    assert findings.counts["rendered again"] == 6
    Path(moved.root, "crops/carl.png").unlink()
    assert "crops/carl.png: got no such file" in one(findings(moved))


def test_pixels_of_another_device_may_differ_a_little(finished):
    ledger = run_ledger(finished.run("single"))
    commit = json.loads((ledger.folder / "_commits").read("shard-00000.json"))
    commit["facts"]["device"] = "cuda something"
    (ledger.folder / "_commits").write("shard-00000.json", json.dumps(commit).encode())
    row = a_row(finished)
    image = Image.open(io.BytesIO(Path(row["output_uri"]).read_bytes())).convert("RGB")

    def changed(level: int):
        levels = np.asarray(image).astype(int)
        Image.fromarray(
            np.where(levels > 128, levels - level, levels + level).astype("uint8")
        ).save(row["output_uri"])
        digest = sha256(Path(row["output_uri"]).read_bytes())

        def change(table):
            digests = [digest, *table["output_sha256"].to_pylist()[1:]]
            place = table.schema.get_field_index("output_sha256")
            return table.set_column(place, "output_sha256", pa.array(digests))

        return change

    forged(finished, changed(1))
    assert findings(finished, sample=16) == []
    forged(finished, changed(9))
    found = one(findings(finished, sample=16))
    assert "differ by 9.00 grey levels" in found
    assert "at most 1 on average on another device" in found


def test_rows_that_were_done_again_are_held_to_the_same_pixels(finished, monkeypatch):
    w_plus, run = finished.group("latents")["w_plus"], finished.run("twice")
    row = w_plus[1]
    w_plus[1] = np.nan
    finished.edit("twice")
    w_plus[1] = row
    for shard in shards_to_do(run, ["failed"]):
        edit_pairs_shard(run.url, "cpu", shard, ["failed"])
    assert findings(finished, "twice", sample=16) == []
    assert findings.counts["rendered again"] == 16
    # Rendered otherwise, as by other code.
    monkeypatch.setattr(tasks.edits, "tensor_to_images", lambda one: tensor_to_images(0.97 * one))
    edits = findings(finished, "twice", sample=16)
    assert len(edits) == 16
    assert all("got pixels that differ" in edit for edit in edits)
    assert all("expected the same pixels" in edit for edit in edits)


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("latents/*/w_plus.zarr/w_plus/c/0/0/0", "give `styleclip invert` with --redo-damaged"),
        ("latents/*/w_plus.zarr/zarr.json", "to invert again"),
        ("latents/*/results/*", "the command that made the shard computes it again"),
        ("latents/*/_plans/*", "the command that made the shard computes it again"),
        ("latents/*/_commits/*", "the command that made the shard computes it again"),
        ("directions/*/directions.zarr/channel_clip_directions/c/**/0", "to measure again"),
        ("directions/*/directions.zarr/zarr.json", "to measure again"),
        ("faces/results/*", "the command that made the shard computes it again"),
        ("faces/_plans/*", "the command that made the shard computes it again"),
        ("runs/single/results/part-00001*", "the command that made the shard computes it again"),
        ("runs/single/_plans/shard-00001.parquet", "restore it from a copy"),
        ("runs/single/_commits/shard-00001.json", "the command that made the shard"),
        ("runs/single/manifest.json", "the command that began or updated the run makes it anew"),
        ("mappers/*/mapper.json", "give the command again that trained the mapper"),
    ],
)
def test_a_file_that_is_cut_off_is_told_in_one_sentence_with_one_remedy(finished, place, told):
    path = next(path for path in sorted(Path(finished.root).glob(place)) if path.is_file())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    # What a mapper cannot do is told of each edit by it besides.
    found = one(findings(finished, sample=0 if "mapper" in place else 4))
    assert (found.count(": got "), found.count(", expected "), found.count("; ")) == (1, 1, 1)
    assert told in found.partition("; ")[2]


@pytest.mark.parametrize(
    ("place", "got"),
    [
        ("faces/settings.json", "settings.json: got no such file"),
        ("faces/_commits/*", "got results without a commit"),
        ("faces/_plans/*", "got a commit without a plan"),
        ("latents/*/_commits/*", "got results without a commit"),
        ("latents/*/_plans/*", "got a commit without a plan"),
        ("latents/*/w_plus.zarr/status/zarr.json", "got a damaged store"),
        ("inversions/*/carl.png", "carl.png: got no such file"),
        ("mappers/*/mapper.json", "got no mapper.json"),
        ("runs/single/_commits/shard-00001.json", "got results without a commit"),
        ("runs/single/_plans/shard-00001.parquet", "got a commit without a plan"),
    ],
)
def test_a_file_that_is_gone_is_told_in_one_sentence_with_one_remedy(finished, place, got):
    next(path for path in sorted(Path(finished.root).glob(place)) if path.is_file()).unlink()
    found = one(findings(finished))
    assert got in found
    assert (found.count(": got "), found.count(", expected ")) == (1, 1)
    assert "restore" in found.partition("; ")[2]


def test_a_mapper_gets_a_lost_card_again(finished):
    (path,) = Path(finished.root).glob("mappers/*/mapper.json")
    before = json.loads(path.read_text())
    path.unlink()
    config = MapperConfig(steps=2, mapper_type="levels")
    train_prompt_mapper(finished.root, finished.models, "cpu", "a face with red hair", config)
    after = json.loads(path.read_text())
    assert after == {name: before[name] for name in after}
    assert findings(finished) == []


def test_what_killed_writers_left_is_named(finished):
    assert findings(finished) == []
    left = Path(finished.root) / "runs/single/images/anna/.part-12345678"
    (array,) = Path(finished.root).glob("latents/*/*.zarr/w_plus")
    for path in (left, array / "zarr.json.0123abcd.partial"):
        path.write_bytes(b"half")
        os.utime(path, (1, 1))
    for found, path in zip(findings(finished), (left, array), strict=True):
        assert f": got half-written files, such as {path.parts[-3]}/" in found
        subprocess.run(shlex.split(found.split("`")[1]), check=True)
    assert findings(finished) == []
