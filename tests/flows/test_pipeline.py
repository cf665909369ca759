"""The whole main job with small random networks, on every kind of store."""

import io
import json
import re
import shutil
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from benchmarks.endurance.small_bundle import write_small_bundle
from flows.align import align_photos
from flows.assets import make_assets
from flows.edit import edit_dataset
from flows.evaluate import evaluate_run
from flows.interchange import export_latents, import_latents
from flows.invert import invert_faces
from flows.manifest_commands import validate_edit_manifest
from flows.pipeline import run_pipeline
from flows.relevance import build_relevance
from flows.verify import verify_run
from manifests.errors import ManifestError
from manifests.schemas import RESULTS
from styleclip_ops.errors import ConfigError
from tasks.directions import DirectionStoreError, RelevanceConfig
from tasks.interchange import Import, plan_import
from tasks.inversion import plan_inversion
from tasks.latents import latent_folder
from tasks.manifest_files import usable_faces
from tasks.models import open_models
from tasks.outputs import read_image
from tasks.photos.crops import NOT_MENDED
from tasks.provenance import png_bytes, read_facts
from tasks.runs import RunError, is_updated, open_run, read_settings, run_folder, run_ledger
from tasks.store.folders import Folder, read_url, sha256

TOO_LONG = "very " * 90 + "old"
RELEVANCE = RelevanceConfig(num_images=1, num_statistics=50, mode="fast")
PROMPTS = b"""target_prompt,method,alpha,num_channels,options
a smiling face,global,1;2,20,
a face with glasses,optimize,1,,"{""steps"": 2}"
a face with red hair,mapper,1,,"{""steps"": 2, ""mapper_type"": ""style_space""}"
"""


@pytest.fixture(scope="module")
def portrait() -> bytes:
    """A face that dlib finds."""
    from demo.portraits.scene import render_scenes, sample_scenes
    from demo.portraits.sheet import to_image

    scene = next(scene for scene in sample_scenes(20, 7) if len(scene.placements) == 1)
    sink = io.BytesIO()
    to_image(render_scenes([scene])[0]).save(sink, "JPEG", quality=92)
    return sink.getvalue()


def fill(root: str, portrait: bytes) -> str:
    """Put a face, nobody, a broken file and a prompt table into a workspace."""
    folder = Folder(root) / "photos"
    folder.write("anna.jpg", portrait)
    folder.write("nobody.png", png_bytes(Image.new("RGB", (200, 160), "white"), {}))
    folder.write("broken.jpg", portrait[:500])
    Folder(root).write("prompts.csv", PROMPTS)
    return folder.url


@pytest.fixture(scope="module")
def finished(tmp_path_factory, portrait, models) -> str:
    """A workspace in a directory in which the whole job was run."""
    root = str(tmp_path_factory.mktemp("finished"))
    summary = run(root, fill(root, portrait), models)
    assert summary.facts["align"] == {"ok": 1, "unreadable": 1, "no_face": 1}
    return root


def results(root: str, run: str) -> pa.Table:
    return pa.concat_tables(run_ledger(run_folder(root, run)).results())


def run(root: str, photos: str, models: str, **options):
    prompts = Folder(root).url_of("prompts.csv")
    given = {"models": models, "relevance": RELEVANCE, "device": "cpu", "shard_size": 3} | options
    return run_pipeline(photos, prompts, root, **given)


def test_photographs_in_edits_and_a_report_out(finished, models):
    table = results(finished, "run")
    assert table.schema.equals(RESULTS)
    assert table["status"].to_pylist() == ["ok"] * 4
    assert set(table["method"].to_pylist()) == {"global", "optimize", "mapper"}
    for row in table.to_pylist():
        content = read_image(row["output_uri"])
        assert sha256(content) == row["output_sha256"]
        assert read_facts(content)["pair_id"] == row["pair_id"]
        assert -1 <= row["identity_edit"] <= 1.000001
    assert "a smiling face" in read_url(f"{finished}/runs/run/report/index.html").decode()
    # The same command again finds nothing to do, and changes nothing.
    again = run(finished, f"{finished}/photos", models)
    assert again.counts == {}
    assert results(finished, "run").equals(table)


@pytest.mark.parametrize("root", ["memory://same", "s3://faces/same"])
def test_every_store_gives_the_same_results(finished, root, portrait, models, s3_endpoint):
    run(root, fill(root, portrait), models)
    differing = ["output_uri", "seconds"]
    wanted = results(finished, "run").drop_columns(differing)
    assert results(root, "run").drop_columns(differing).to_pylist() == wanted.to_pylist()
    assert "a smiling face" in read_url(f"{root}/runs/run/report/index.html").decode()


def test_directions_and_mappers_that_are_lost_are_made_as_they_were_by_the_same_command(
    finished, tmp_path, models, capsys
):
    root, photos = str(tmp_path / "ws"), f"{finished}/photos"
    shutil.copytree(finished, root)
    before = results(root, "run")
    (weights,) = (tmp_path / "ws").glob("mappers/*/mapper.safetensors")
    weights.unlink()
    (directions,) = (tmp_path / "ws/directions").iterdir()
    shutil.rmtree(directions)
    assert verify_run(root, device="cpu").counts["wrong"] >= 2
    said, again = one_line(capsys), "give the command that began the run again"
    assert f"directions {directions}: got none, expected those that the run was" in said
    assert f"restore them from a copy, or {again}, which measures them" in said
    assert f"{again}, which trains it as it was" in said
    # Nobody needs to remember how they were measured.
    assert run(root, photos, models, relevance=None).counts == {}
    said = one_line(capsys)
    assert f"{directions}, which the run was begun with, is not there; it is measured again" in said
    assert verify_run(root, sample=4, device="cpu").counts["wrong"] == 0
    assert results(root, "run").equals(before)
    with pytest.raises(RunError, match="begun with --num-images 1 --num-statistics 50; give those"):
        run(root, photos, models, relevance=replace(RELEVANCE, seed=3))
    # A store that lost a part says how to make it again, also where nothing is left to measure.
    (chunk,) = directions.glob("directions.zarr/channel_std/c/*")
    chunk.unlink()
    told = f"or remove {directions} and give `styleclip relevance` with --num-images 1 --num-stat"
    with pytest.raises(DirectionStoreError, match=told):
        build_relevance(root, models=models, device="cpu", relevance=RELEVANCE)


def test_a_run_of_before_directions_were_noted_continues(finished, tmp_path, models, capsys):
    root = str(tmp_path / "ws")
    shutil.copytree(finished, root)
    noted = tmp_path / "ws/runs/run/run.json"
    values = json.loads(noted.read_text())
    assert values.pop("relevance") == {**asdict(RELEVANCE)}
    noted.write_text(json.dumps(values))
    assert run(root, f"{finished}/photos", models, relevance=None).counts == {}
    assert not is_updated(run_folder(root, "run"))
    (directions,) = (tmp_path / "ws/directions").iterdir()
    shutil.rmtree(directions)
    verify_run(root, device="cpu")
    assert "or give `styleclip relevance` with the options that they were" in one_line(capsys)


def test_what_is_lost_is_told_and_made_again(finished, tmp_path, models, capsys):
    root = str(tmp_path / "ws")
    shutil.copytree(finished, root)
    before, photos = results(root, "run"), f"{finished}/photos"
    (latents,) = (tmp_path / "ws").glob("latents/*/w_plus.zarr/w_plus/c")
    shutil.rmtree(latents)
    (tmp_path / "ws/crops/anna.png").unlink()
    shutil.rmtree(tmp_path / "ws/runs/run/images")
    evaluate_run(root, device="cpu")
    assert "4 edited images are absent, damaged or altered: `styleclip edit` " in one_line(capsys)
    assert verify_run(root, sample=4, device="cpu").counts["wrong"] == 10
    again = run(root, photos, models, redo_damaged=True)
    assert (again.facts["align"], again.counts) == ({"ok": 1}, {"ok": 4})
    assert verify_run(root, sample=4, device="cpu").counts["wrong"] == 0
    after = results(root, "run")
    assert after["output_sha256"].equals(before["output_sha256"])
    again = run(root, photos, models, redo_damaged=True)
    assert (again.facts["align"], again.counts) == ({}, {})


def test_a_crop_that_cannot_be_cut_again_is_named_with_what_to_do(
    finished, tmp_path, portrait, capsys
):
    root = str(tmp_path / "ws")
    shutil.copytree(finished, root)
    source, crop = f"{finished}/photos/anna.jpg", tmp_path / "ws/crops/anna.png"
    crop.unlink()
    (tmp_path / "ws/faces/settings.json").unlink()
    try:
        Folder(finished).write("photos/anna.jpg", portrait[:-2])
        again = align_photos(source, root, redo_damaged=True)
    finally:
        Folder(finished).write("photos/anna.jpg", portrait)
    assert (again.counts, again.failed) == ({NOT_MENDED: 1}, True)
    said = one_line(capsys)
    assert f"not mended: the crop of anna, from {source}: got another photograph than was" in said
    assert f"`styleclip forget {root} anna` and this command again" in said
    assert not crop.exists()
    # With nothing new, what binds the faces is there again.
    assert (tmp_path / "ws/faces/settings.json").exists()
    again = align_photos(source, root, redo_damaged=True)
    assert (again.counts, again.failed) == ({"ok": 1}, False)


def one_line(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_tar_shards_hold_the_same_images(finished, models):
    options = {"models": models, "relevance": RELEVANCE, "device": "cpu", "output": "webdataset"}
    edit_dataset(finished, f"{finished}/runs/run/pairs.parquet", run="tarred", **options)
    single, tarred = results(finished, "run"), results(finished, "tarred")
    assert tarred["output_sha256"].to_pylist() == single["output_sha256"].to_pylist()
    first = tarred["output_uri"][0].as_py()
    assert ".tar#" in first
    assert sha256(read_image(first)) == tarred["output_sha256"][0].as_py()


def test_rows_that_cannot_be_edited_are_rows_and_told(tmp_path, portrait, models, capsys):
    root = str(tmp_path / "ws")
    (Folder(root) / "photos").write("anna.jpg", portrait)
    align_and_invert(root, models)
    (Folder(root) / "photos").write("berta.jpg", portrait)
    align_photos(f"{root}/photos", root)
    manifest = tmp_path / "edits.csv"
    manifest.write_text(
        "image_id,target_prompt,num_channels,beta\n"
        "anna,a smiling face,10,\n"
        "stranger,a smiling face,10,\n"
        "stranger,a sad face,10,\n"
        "berta,a smiling face,10,\n"
        "anna,a sad face,,0.99\n"
    )
    capsys.readouterr()
    warned = (
        "edit: 3 rows name images without a latent, and will be no_latent "
        f"edit: not inverted by these networks: berta; `styleclip invert {root} --models {models}`",
        f"edit: no faces of {root}: stranger; `styleclip manifest validate {manifest}",
    )
    for is_first in (True, False):
        edit_dataset(root, str(manifest), models=models, relevance=RELEVANCE, device="cpu")
        told = one_line(capsys)
        assert [text in told for text in warned] == [is_first] * 2
        for count, status, image in ((3, "no_latent", "stranger"), (1, "no_channel", "anna")):
            assert (f"edit: {status}" if is_first else f"edit: {count} {status}") in told
            assert f"such as {image}, " in told
    rows = results(root, "run").to_pylist()
    assert [row["status"] for row in rows] == ["ok", *["no_latent"] * 3, "no_channel"]
    assert "align and invert it first" in rows[1]["error"]
    assert "choose beta <=" in rows[4]["error"]


def align_and_invert(root: str, models: str) -> None:
    from flows.invert import invert_faces

    align_photos(f"{root}/photos", root)
    invert_faces(root, models=models, device="cpu")


def test_a_run_does_not_continue_with_another_manifest_or_setting(tmp_path, portrait, models):
    root = str(tmp_path / "ws")
    (Folder(root) / "photos").write("anna.jpg", portrait)
    align_and_invert(root, models)
    manifest = tmp_path / "edits.csv"
    manifest.write_text("image_id,target_prompt,num_channels\nanna,a smiling face,10\n")
    options = {"models": models, "relevance": RELEVANCE, "device": "cpu"}
    edit_dataset(root, str(manifest), **options)
    many = tmp_path / "many.csv"
    many.write_text("image_id,target_prompt,num_channels\nanna,a smiling face,10\nanna,old,6000\n")
    for dry_run in (True, False):
        with pytest.raises(
            ManifestError, match="row 3, column num_channels: got 6000, expected at most 132"
        ):
            edit_dataset(root, str(many), run="many", dry_run=dry_run, **options)
    assert not run_folder(root, "many").names()
    with pytest.raises(RunError, match="image_format: got 'webp', begun with 'png'"):
        edit_dataset(root, str(manifest), image_format="webp", **options)
    manifest.write_text("image_id,target_prompt,num_channels\nanna,a sad face,10\n")
    with pytest.raises(RunError, match="1 row added .*; 1 row removed .*; give --update"):
        edit_dataset(root, str(manifest), **options)


@pytest.fixture
def latents(tmp_path, models) -> str:
    """A workspace with two latents of another tool, and a manifest that wants a third."""
    torch.save(torch.randn(2, 8, 28), tmp_path / "a.pt")
    torch.save(torch.randn(1, 8, 28), tmp_path / "b.pt")
    root = str(tmp_path / "ws")
    import_latents(root, str(tmp_path / "a.pt"), models=models, device="cpu")
    ask(tmp_path, "a-00000,a sad face,global", "a-00001,a sad face,optimize", "b-00000,old,global")
    return root


def ask(folder, *rows: str) -> None:
    """Write a manifest: image, prompt, method."""
    options = {"global": "", "optimize": '"{""steps"": 1}"'}
    lines = [f"{row},{options[row.rsplit(',', 1)[1]]}" for row in rows]
    header = "image_id,target_prompt,method,options"
    (folder / "edits.csv").write_text("\n".join([header, *lines]) + "\n")


def edit(root: str, models: str, **options) -> dict[str, int]:
    given = {"relevance": RELEVANCE, "device": "cpu", "models": models, "shard_size": 2} | options
    return dict(edit_dataset(root, f"{root}/../edits.csv", **given).counts)


def rows_of(root: str) -> dict[tuple[str, str], dict]:
    return {(r["image_id"], r["target_prompt"]): r for r in results(root, "run").to_pylist()}


def test_a_manifest_that_another_command_replaced_meanwhile_is_refused(
    tmp_path, latents, models, monkeypatch
):
    root, manifest = latents, tmp_path / "edits.csv"
    header, first = "image_id,target_prompt,num_channels\n", "a-00000,a smiling face,20\n"
    manifest.write_text(header + first)

    def overtaken(*given, **named):
        assets = make_assets(*given, **named)
        manifest.write_text(header + "a-00000,an old man,20\n")
        return assets

    options = {"models": models, "relevance": RELEVANCE, "device": "cpu"}
    monkeypatch.setattr("flows.edit.make_assets", overtaken)
    with pytest.raises(RunError, match=r"other rows than when this command began.*give this one"):
        edit_dataset(root, str(manifest), **options)
    assert not Folder(f"{root}/runs/run").names()

    def rewritten(*given, **named):
        manifest.write_text(header + first)
        return make_assets(*given, **named)

    monkeypatch.setattr("flows.edit.make_assets", rewritten)
    manifest.write_text(header + first)
    assert edit_dataset(root, str(manifest), **options).counts == {"ok": 1}
    # Another manifest is refused before anything is made for it.
    monkeypatch.setattr("flows.edit.make_assets", make_assets)
    manifest.write_text(header.strip() + ",method\na-00000,a sad face,,mapper\n")
    with pytest.raises(RunError, match="1 row added"):
        edit_dataset(root, str(manifest), **options)
    assert not Folder(f"{root}/mappers").names()
    assert "run.1.json" not in Folder(f"{root}/runs/run").names()


def test_a_mapper_that_is_gone_is_missed_where_a_run_continues(tmp_path, latents, models):
    manifest, options = tmp_path / "edits.csv", {"models": models, "device": "cpu"}
    manifest.write_text(
        'image_id,target_prompt,method,options\na-00000,a sad face,mapper,"{""steps"": 2}"\n'
    )
    edit_dataset(latents, str(manifest), run="trained", **options)
    (mapper,) = (tmp_path / "ws" / "mappers").iterdir()
    manifest.write_text(
        f"image_id,target_prompt,method,mapper_uri\na-00000,a sad face,mapper,{mapper}\n"
    )
    assert edit_dataset(latents, str(manifest), **options).counts == {"ok": 1}
    (mapper / "mapper.safetensors").unlink()
    with pytest.raises(ConfigError, match="expected a finished mapper"):
        edit_dataset(latents, str(manifest), **options)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a smile,global,99999,,", "row 3, column num_channels: got 99999, expected at most "),
        ("a smile,mapper,,mappers/x,", "row 3, column mapper_uri: .* expected the whole path"),
        (f"{TOO_LONG},optimize,,,", "row 3, column target_prompt: .* 77 tokens of CLIP, not 93"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_prompts_that_networks_cannot_do_are_told_before_any_photograph(
    tmp_path, portrait, models, row, said, dry_run
):
    root = str(tmp_path / "ws")
    photos = fill(root, portrait)
    table = f"target_prompt,method,num_channels,mapper_uri,options\nold,,,,\n{row}\n"
    Folder(root).write("prompts.csv", table.encode())
    with pytest.raises(ManifestError, match=said):
        run(root, photos, models, dry_run=dry_run)
    assert not Folder(f"{root}/faces").names()


def test_a_run_in_which_every_row_failed_fails_each_time(tmp_path, latents, models):
    manifest, options = tmp_path / "edits.csv", {"models": models, "device": "cpu"}
    manifest.write_text("image_id,target_prompt\nb-00000,a sad face\n")
    ends = [edit_dataset(latents, str(manifest), relevance=RELEVANCE, **options) for _ in range(2)]
    assert [(end.counts, end.failed) for end in ends] == [({"no_latent": 1}, True), ({}, True)]
    # With one that is ok, nothing is left to do.
    manifest.write_text("image_id,target_prompt\nb-00000,a sad face\na-00000,a sad face\n")
    edit_dataset(latents, str(manifest), relevance=RELEVANCE, update=True, **options)
    assert not edit_dataset(latents, str(manifest), relevance=RELEVANCE, **options).failed


def test_what_networks_cannot_do_is_told_of_all_rows_at_once_before_any_work(
    tmp_path, latents, models, capsys
):
    manifest = tmp_path / "edits.csv"
    cells = (
        *("a-00000,a hat,,,", f"a-00000,old,{TOO_LONG},,", "a-00000,young,,,9999"),
        f"a-00000,{TOO_LONG},,mapper,",
    )
    header = "image_id,target_prompt,neutral_prompt,method,num_channels"
    manifest.write_text("\n".join([header, *cells]))
    told = (
        r"row 3, column neutral_prompt: .* expected at most 77 tokens of CLIP, not 93; shorten it",
        "row 4, column num_channels: got 9999, expected at most [0-9]+, the editable style chan",
        "row 5, column target_prompt: .* expected at most 77 tokens of CLIP, not 93; shorten it",
    )
    for dry_run in (True, False):
        with pytest.raises(ManifestError, match="got 3 mistakes") as caught:
            edit_dataset(latents, str(manifest), models=models, device="cpu", dry_run=dry_run)
        assert all(re.search(one, str(caught.value)) for one in told)
    assert not Folder(f"{latents}/directions").names()
    # A check of the manifest alone says the same.
    check = validate_edit_manifest(str(manifest), workspace=latents, models=models)
    assert (check.counts, check.failed) == ({"sound": 1, "failed": 3}, True)
    said = capsys.readouterr().err
    assert all(re.search(one, " ".join(said.split())) for one in told)


def test_failed_rows_are_done_again_on_request_and_no_others(tmp_path, latents, models):
    assert edit(latents, models) == {"ok": 2, "no_latent": 1}
    before = rows_of(latents)
    import_latents(latents, str(tmp_path / "b.pt"), models=models, device="cpu")
    assert edit(latents, models) == {}
    assert edit(latents, models, retry_failed="no_channel,failed") == {}
    assert edit(latents, models, retry_failed="no_latent") == {"ok": 1}
    after = rows_of(latents)
    assert [row["status"] for row in after.values()] == ["ok"] * 3
    # Rendered once: a row that was ok is the same, seconds included.
    assert [key for key in before if before[key] != after[key]] == [("b-00000", "old")]
    assert edit(latents, models, retry_failed="all") == {}
    with pytest.raises(RunError, match="got lost, expected some of no_latent, failed"):
        edit(latents, models, retry_failed="lost")


def test_an_update_computes_what_is_new_or_depends_on_what_changed(tmp_path, latents, models):
    edit(latents, models)
    before = rows_of(latents)
    ask(tmp_path, "a-00001,a sad face,optimize", "a-00000,a sad face,global", "a-00001,old,global")
    assert edit(latents, models, update=True) == {"ok": 1}
    after = rows_of(latents)
    assert [*after] == [("a-00000", "a sad face"), ("a-00001", "a sad face"), ("a-00001", "old")]
    assert all(after[key] == before[key] for key in before if key in after)
    # Directions that were measured otherwise: two of the three rows depend on them.
    other = RelevanceConfig(num_images=2, num_statistics=50, mode="fast")
    stores = Folder(latents) / "directions"
    measured = stores.names()
    told = "begun with --num-images 1 --num-statistics 50; .* --update to measure anew"
    with pytest.raises(RunError, match=told):
        edit(latents, models, relevance=other)
    assert stores.names() == measured
    with pytest.raises(RunError, match="arithmetic: got 'bfloat16', begun with"):
        edit(latents, models, relevance=other, arithmetic="bfloat16")
    run = run_folder(latents, "run")
    # Less at a time is the same run.
    assert edit(latents, models, batch_size=5) == {}
    assert not is_updated(run)
    measured_anew = replace(read_settings(run), directions_fingerprint="another")
    with pytest.raises(RunError, match=r"(?s)or --update to .* directions_fingerprint: got"):
        open_run(run, measured_anew)
    assert edit(latents, models, relevance=other, update=True) == {"ok": 2}
    # Nothing asked: as the run was begun, or updated.
    assert edit(latents, models, relevance=None) == {}
    assert edit(latents, models, relevance=None, run="another") == {"ok": 3}
    assert read_settings(run_folder(latents, "another")).directions == read_settings(run).directions
    last = rows_of(latents)
    assert [key for key in after if last[key] == after[key]] == [("a-00001", "a sad face")]
    for row in last.values():
        assert sha256(read_image(row["output_uri"])) == row["output_sha256"]
    assert edit(latents, models, relevance=other) == {}
    # Back to what the run was begun with: an update like any other.
    first = RELEVANCE
    assert edit(latents, models, relevance=first, update=True) == {"ok": 2}
    assert edit(latents, models, relevance=first) == {}
    with pytest.raises(RunError, match="take a new run name, or the settings that it was begun"):
        edit(latents, models, relevance=first, arithmetic="bfloat16", update=True)


def test_an_update_to_networks_without_latents_is_refused_and_changes_no_row(
    tmp_path, latents, models
):
    edit(latents, models)
    before = rows_of(latents)
    (tmp_path / "others").mkdir()
    others = write_small_bundle(tmp_path / "others", seed=1)
    with pytest.raises(RunError, match=r"no face is inverted by, .* `styleclip invert"):
        edit(latents, others, update=True)
    assert rows_of(latents) == before


def test_a_manifest_without_rows_begins_no_run(tmp_path, latents, models):
    ask(tmp_path)
    with pytest.raises(ManifestError, match="got no rows"):
        edit(latents, models)
    assert not run_folder(latents, "run").names()


def test_latents_of_other_tools_come_in_and_go_out(tmp_path, models):
    root = str(tmp_path / "ws")
    w_plus = torch.randn(3, 8, 28, generator=torch.Generator().manual_seed(1))
    torch.save(w_plus, tmp_path / "latents.pt")
    summary = import_latents(root, str(tmp_path / "latents.pt"), models=models, device="cpu")
    assert summary.counts == {"ok": 3}
    export_latents(root, str(tmp_path / "w_plus.npy"), models=models, device="cpu")
    np.testing.assert_array_equal(np.load(tmp_path / "w_plus.npy"), w_plus.numpy())
    assert (tmp_path / "w_plus.txt").read_text().split()[0] == "latents-00000"
    # The names beside are taken again.
    other = str(tmp_path / "other")
    import_latents(other, str(tmp_path / "w_plus.npy"), models=models, device="cpu")
    assert usable_faces(other) == usable_faces(root)
    manifest = tmp_path / "edits.csv"
    manifest.write_text(
        "image_id,target_prompt,method,options\n"
        'latents-00001,a sad face,optimize,"{""steps"": 2}"\n'
    )
    edit_dataset(root, str(manifest), models=models, device="cpu")
    assert results(root, "run")["status"].to_pylist() == ["ok"]


def test_a_latent_that_was_imported_for_other_networks_is_no_face_of_a_run(tmp_path, models):
    root = str(tmp_path / "ws")
    torch.save(torch.randn(1, 8, 28), tmp_path / "own.pt")
    import_latents(root, str(tmp_path / "own.pt"), models=models, device="cpu")
    own = latent_folder(Folder(root), open_models(models, "cpu"))
    assert usable_faces(root, own.name) == usable_faces(root) == ["own-00000"]
    assert usable_faces(root, "another") == []


def test_a_single_latent_is_not_taken_for_a_batch(tmp_path, models):
    np.save(tmp_path / "one.npy", np.zeros((8, 28), np.float32))
    with pytest.raises(
        ValueError, match=r"latents of shape \[8, 28\], expected floats \[N, 8, 28\]"
    ):
        import_latents(str(tmp_path), str(tmp_path / "one.npy"), models=models, device="cpu")


def test_a_workspace_that_was_moved_goes_on_in_its_runs_and_in_new_ones(tmp_path, portrait, models):
    photos, began = fill(str(tmp_path / "in"), portrait), str(tmp_path / "ws")
    Folder(began).write("prompts.csv", PROMPTS)
    run(began, photos, models)
    moved = str(shutil.move(began, tmp_path / "moved"))
    assert run(moved, photos, models).counts == {}
    Folder(moved).write("prompts.csv", PROMPTS + b"an old face,global,1,20,\n")
    with pytest.raises(RunError, match="1 row added"):
        run(moved, photos, models)
    assert run(moved, photos, models, update=True).counts == {"ok": 1}
    assert run(moved, photos, models, run="other").counts == {"ok": 5}
    for name in ("run", "other"):
        assert verify_run(moved, name, sample=3, device="cpu").counts["wrong"] == 0
    report = read_url(f"{moved}/runs/run/report/index.html").decode()
    assert report.count("an old face") > 1


def test_faces_are_inverted_where_the_workspace_is_now(tmp_path, portrait, models):
    align_photos(fill(str(tmp_path / "ws"), portrait), str(tmp_path / "ws"), crop_size=64)
    plan_inversion(str(tmp_path / "ws"), models, "cpu", 8)
    latents = Import(np.zeros((2, 8, 28), np.float32), ["a", "b"])
    plan_import(str(tmp_path / "ws"), latents, models, "cpu", 8)
    moved = str(shutil.move(tmp_path / "ws", tmp_path / "moved"))
    assert invert_faces(moved, models=models, device="cpu").counts == {"ok": 3}


def test_the_run_says_what_it_was_made_with(finished):
    values = json.loads(read_url(f"{finished}/runs/run/run.json"))
    assert set(values["fingerprints"]) == {"generator", "encoder", "clip", "identity", "judge"}
    row = results(finished, "run").to_pylist()[0]
    assert row["generator_fingerprint"] == values["fingerprints"]["generator"]
    assert row["asset_fingerprint"] == values["directions_fingerprint"]
