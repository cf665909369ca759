"""Edits of a shard: of images whose latents are lost, and in other company."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from PIL import Image

from manifests.cells import read_instruction
from manifests.edits import Edit
from manifests.schemas import LATENTS, METRICS
from styleclip_ops.errors import StyleClipError
from styleclip_ops.pictures import images_to_tensor
from styleclip_ops.warm_start import RandomFaces
from tasks import edits
from tasks.edits import Editor, edit_pairs_shard, warm_offset
from tasks.interchange import Import, plan_import
from tasks.inversion import invert_faces_shard
from tasks.models import Models, open_models
from tasks.runs import (
    RunError,
    open_run,
    read_settings,
    run_ledger,
    run_places,
    shards_to_do,
)
from tasks.store.folders import Folder
from tasks.store.ledger import Ledger


def latents(ws) -> zarr.Group:
    (path,) = Path(ws.root).glob("latents/*/*.zarr")
    return zarr.open_group(path, mode="r+")


def test_identity_is_scored_on_what_the_saved_images_show(finished):
    # So strong that many values leave the range that a file can hold.
    finished.ask([Edit("anna", read_instruction({"target_prompt": "sad", "alpha": 60.0}))])
    finished.edit("strong")
    (row,) = finished.results("strong").to_pylist()
    inversion, *_ = Path(finished.root).glob("inversions/*/anna*.png")
    pictures = [Image.open(path).convert("RGB") for path in (inversion, row["output_uri"])]
    saved = images_to_tensor(pictures)
    assert (saved[1].abs() == 1).float().mean() > 0.05
    before, after = open_models(finished.models, "cpu").identity.embed(saved).detach()
    assert float(before @ after) == pytest.approx(row["identity_edit"], abs=0.01)


def test_a_latent_without_a_photograph_is_not_near_one(finished):
    w_plus = np.random.default_rng(0).normal(size=(1, 8, 28)).astype(np.float32)
    asked = finished.root, Import(w_plus, ["stranger"]), finished.models, "cpu", 64
    for shard in plan_import(*asked):
        invert_faces_shard(finished.root, finished.models, "cpu", shard, batch_size=8)
    finished.ask([Edit("stranger", read_instruction({"target_prompt": "sad", "alpha": 2.0}))])
    finished.edit("imported")
    (row,) = finished.results("imported").to_pylist()
    assert (row["status"], row["error"]) == ("ok", None)
    compared = {name: row[name] for name in METRICS if name.endswith(("_inversion", "_total"))}
    assert compared == dict.fromkeys(compared)
    assert len(compared) == 5
    assert None not in (row["identity_edit"], row["image_edit"], row["clip_cosine_inversion"])
    (ledger,) = (Ledger(Folder(str(p)), LATENTS) for p in Path(finished.root).glob("latents/*"))
    latents = {row["image_id"]: row for table in ledger.results() for row in table.to_pylist()}
    assert latents["stranger"]["l1"] is latents["stranger"]["identity_inversion"] is None
    assert None not in (latents["anna"]["l1"], latents["anna"]["identity_inversion"])


def test_a_latent_that_is_lost_fails_its_own_rows(finished):
    group = latents(finished)
    kept = group["w_plus"][1], group["source_identity"][2]
    group["w_plus"][1, 3, 5] = np.nan
    group["source_identity"][2, 0] = np.inf
    finished.edit("lost")
    rows = finished.results("lost").to_pylist()
    told = {row["image_id"]: row["error"] for row in rows if row["status"] == "failed"}
    assert [row["status"] for row in rows].count("ok") == 8
    assert told.keys() == {"anna.face1", "berta"}
    assert "row 1 of" in told["anna.face1"]
    assert "got NaN or infinity in w_plus, expected numbers" in told["anna.face1"]
    assert "got NaN or infinity in source_identity" in told["berta"]
    assert "give `styleclip invert` with --redo-damaged" in told["berta"]
    assert "--retry-failed" in told["berta"]

    group["w_plus"][1], group["source_identity"][2] = kept
    run = finished.run("lost")
    for shard in shards_to_do(run, ["failed"]):
        edit_pairs_shard(run.url, "cpu", shard, ["failed"])
    again = {row["pair_id"]: row["output_sha256"] for row in finished.results("lost").to_pylist()}
    assert set(finished.results("lost")["status"].to_pylist()) == {"ok"}
    kept_rows = {r["pair_id"]: r["output_sha256"] for r in rows if r["status"] == "ok"}
    assert again | kept_rows == again


def test_a_missing_chunk_fails_the_rows_that_were_in_it(finished):
    (chunk,) = [
        p for p in Path(finished.root).glob("latents/*/*.zarr/w_plus/c/**/*") if p.is_file()
    ]
    chunk.unlink()
    finished.edit("lost")
    rows = finished.results("lost").to_pylist()
    assert len(rows) == 16
    assert all("got NaN or infinity in w_plus" in row["error"] for row in rows)
    assert run_ledger(finished.run("lost")).pending() == []


def test_a_prompt_that_is_too_long_fails_its_own_rows(finished):
    long, descent = "very " * 90 + "old", json.dumps({"steps": 1})
    (mapper,) = (str(path) for path in Path(finished.root).glob("mappers/*"))
    ways = [
        {"target_prompt": "sad", "method": "optimize", "options": descent},
        {"target_prompt": long, "method": "optimize", "options": descent},
        {"target_prompt": "sad", "neutral_prompt": long, "method": "optimize", "options": descent},
        # Nothing but the scores needs its prompts.
        {"target_prompt": long, "method": "mapper", "mapper_uri": mapper},
    ]
    finished.ask([Edit("anna", read_instruction(way)) for way in ways])
    finished.edit("long")
    rows = finished.results("long").to_pylist()
    assert [row["status"] for row in rows] == ["ok", "failed", "failed", "failed"]
    assert all("tokens, expected at most 77" in row["error"] for row in rows[1:])


def test_an_image_is_the_same_to_the_last_bit_in_any_company(finished):
    names = ("anna", "anna.face1", "berta", "carl")
    descent = json.dumps({"steps": 20, "lr": 0.2, "patience": 2})
    style = json.dumps({"steps": 20, "lr": 0.2, "patience": 2, "space": "style"})
    warm = json.dumps({"steps": 2, "start": "samples"})
    levels = json.dumps({"steps": 2, "mapper_type": "levels"})
    ways = [
        *({"target_prompt": "a smiling face", "num_channels": 20, "alpha": a} for a in (2.0, 4.0)),
        {"target_prompt": "a face with red hair", "method": "mapper", "options": levels},
        *({"target_prompt": p, "method": "optimize", "options": descent} for p in ("sad", "old")),
        {"target_prompt": "sad", "method": "optimize", "options": style},
        {"target_prompt": "sad", "method": "optimize", "options": warm},
    ]
    edits = [Edit(name, read_instruction(way)) for way in ways for name in names]
    seen = []
    for turn, size in enumerate((1, 3, 4, 16)):
        finished.ask(edits[:: -1 if turn % 2 else 1])
        finished.edit(f"company{size}", batch_size=size)
        rows = finished.results(f"company{size}").to_pylist()
        seen.append({row["pair_id"]: row["output_sha256"] for row in rows})
    assert len({*seen[0].values()}) == len(edits)
    assert [turn for turn in seen if turn != seen[0]] == []


@pytest.mark.parametrize("space", ["w_plus", "style"])
def test_an_optimization_starts_where_random_faces_fit_the_prompt(finished, space):
    # One step returns what it starts from.
    options = json.dumps({"steps": 1, "start": "samples", "space": space})
    way = {"target_prompt": "an old face", "method": "optimize", "options": options}
    finished.ask([Edit(name, read_instruction(way)) for name in ("anna", "berta")])
    finished.edit(f"warm {space}")
    run = finished.run(f"warm {space}")
    rows, networks = (
        finished.results(f"warm {space}").to_pylist(),
        open_models(finished.models, "cpu"),
    )
    assert [row["status"] for row in rows] == ["ok", "ok"]
    editor = Editor(read_settings(run), networks)
    (batch,) = editor.batches(rows, 2)
    found = editor.find(batch)
    offset = warm_offset(networks, "an old face")
    assert offset.norm() > 0
    if space == "w_plus":
        torch.testing.assert_close(found.offset, offset.expand_as(found.offset))
    else:
        w_plus = torch.from_numpy(batch.latents.w_plus)
        wanted = networks.generator.w_plus_to_s(w_plus + offset) - found.latents
        editable = networks.generator.layout.editable
        torch.testing.assert_close(
            found.offset[:, editable], wanted[:, editable], atol=1e-4, rtol=0
        )
        assert not found.offset[:, ~editable].any()


def test_drawing_faces_to_start_from_is_no_part_of_the_time_of_an_edit(finished, monkeypatch):
    options = json.dumps({"steps": 1, "start": "samples"})
    way = {"target_prompt": "a tired face", "method": "optimize", "options": options}
    draw, waits = edits._random_faces, [1.0]

    def slow(networks: Models) -> RandomFaces:
        time.sleep(waits.pop() if waits else 0)
        return draw(networks)

    monkeypatch.setattr(edits, "_random_faces", slow)
    finished.ask([Edit(name, read_instruction(way)) for name in ("anna", "berta")])
    finished.edit("tired")
    assert sum(finished.results("tired")["seconds"].to_pylist()) < 1
    assert waits == []


def test_assets_that_were_replaced_since_are_refused_by_a_shard(finished):
    finished.edit("before")
    for run, name in (("mapped", "mappers"), ("directed", "directions_fingerprint")):
        finished.edit(run)
        values = json.loads(finished.run(run).read("run.json"))
        # What lies there now is another asset than the run was begun with.
        other = "0123456789abcdef"
        values[name] = dict.fromkeys(values[name], other) if name == "mappers" else other
        finished.run(run).write("run.json", json.dumps(values).encode())
        with pytest.raises(RunError, match="got an asset with the fingerprint .*, expected 0123"):
            edit_pairs_shard(finished.run(run).url, "cpu", 0)
        assert finished.results(run).num_rows == 16


def test_an_edit_is_addressed_by_all_that_its_image_depends_on(finished):
    settings = read_settings(finished.run("single"))
    rows = [row for row in finished.results("single").to_pylist() if row["status"] == "ok"]
    networks = open_models(finished.models, "cpu")
    editor = Editor(settings, networks)
    assert all(editor.address(row) == row["edit_key"] for row in rows)
    other = [editor.address(row | {"identity_fingerprint": "another"}) for row in rows]
    changed = {r["method"] for r, key in zip(rows, other, strict=True) if key != r["edit_key"]}
    assert changed == {"optimize"}
    bf16 = Editor(replace(settings, arithmetic="bfloat16"), networks)
    assert not {bf16.address(row) for row in rows} & {row["edit_key"] for row in rows}


def test_what_two_processes_did_is_counted_by_one(finished, monkeypatch):
    finished.edit("once")
    before = finished.results("once")
    monkeypatch.setattr(Ledger, "is_committed", lambda *_: False)
    assert edit_pairs_shard(finished.run("once").url, "cpu", 0) == {}
    assert finished.results("once").equals(before)


def test_a_judge_of_other_weights_is_refused_by_a_worker(finished):
    finished.edit("judged")
    card = finished.run("judged").read("run.json").decode()
    values = json.loads(card)
    values["fingerprints"]["judge"] = "0123456789abcdef"
    finished.run("judged").write("run.json", json.dumps(values).encode())
    with pytest.raises(StyleClipError, match="judge: got weights .*, expected 0123456789abcdef"):
        edit_pairs_shard(finished.run("judged").url, "cpu", 0)


@pytest.mark.parametrize("damaged", [b"", b'{"arithmetic": "flo'])
def test_settings_that_are_lost_are_made_anew_by_the_same_command(finished, damaged):
    run = finished.run("single")
    whole, rows = run.read("run.json"), finished.results("single")
    run.write("run.json", damaged)
    with pytest.raises(RunError, match=r"/run\.json: got a damaged file, .*remove it, and the"):
        finished.edit("single")
    run.remove("run.json")
    told = (
        r"/run\.json: got no such file, .* give the command that began the run again, which makes"
    )
    with pytest.raises(RunError, match=told):
        read_settings(run)
    finished.edit("single")
    assert run.read("run.json") == whole
    assert finished.results("single").equals(rows)


@pytest.mark.parametrize(
    "other",
    [
        {"image_format": "webp"},
        {"output": "webdataset"},
        {"arithmetic": "bfloat16"},
        {"fingerprints": {"generator": "another"}},
        {"directions_fingerprint": "another"},
    ],
)
def test_no_other_settings_take_the_place_of_those_that_are_lost(finished, other):
    run = finished.run("single")
    settings = read_settings(run)
    run.remove("run.json")
    with pytest.raises(RunError, match="in shard 0 results that were made with other settings"):
        open_run(run, replace(settings, **other))
    assert not run.exists("run.json")
    open_run(run, replace(settings, arithmetic="auto"))


def test_damaged_settings_of_an_updated_run_are_mended_by_others_and_its_command(finished):
    run, copy = finished.run("single"), ("run.json", "run.1.json")
    first = read_settings(run)
    second = replace(first, models="/elsewhere/bundle.json")
    open_run(run, second, update=True)
    for name, other in (copy, copy[::-1]):
        whole = run.read(name)
        run.write(name, b"")
        with pytest.raises(RunError, match=rf"/{name}: .* put a copy of {other} in its place"):
            run_places(run)
        run.write(name, run.read(other))
        open_run(run, second, update=True)
        assert read_settings(run) == second
        run.write(name, whole)
