"""The whole main job with small random networks, on every kind of store."""

import io
import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from flows.align import align_photos
from flows.edit import edit_dataset
from flows.interchange import export_latents, import_latents
from flows.pipeline import run_pipeline
from manifests.schemas import RESULTS
from tasks.directions import RelevanceConfig
from tasks.outputs import read_image
from tasks.provenance import read_facts
from tasks.runs import RunError, run_folder, run_ledger
from tasks.storage import Folder, read_url, sha256

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
    folder.write("nobody.png", _png(Image.new("RGB", (200, 160), "white")))
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


def _png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


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


def test_tar_shards_hold_the_same_images(finished, models):
    options = {"models": models, "relevance": RELEVANCE, "device": "cpu", "output": "webdataset"}
    edit_dataset(finished, f"{finished}/runs/run/pairs.parquet", run="tarred", **options)
    single, tarred = results(finished, "run"), results(finished, "tarred")
    assert tarred["output_sha256"].to_pylist() == single["output_sha256"].to_pylist()
    first = tarred["output_uri"][0].as_py()
    assert ".tar#" in first
    assert sha256(read_image(first)) == tarred["output_sha256"][0].as_py()


def test_rows_that_cannot_be_edited_are_rows(tmp_path, portrait, models):
    root = str(tmp_path / "ws")
    (Folder(root) / "photos").write("anna.jpg", portrait)
    align_and_invert(root, models)
    manifest = tmp_path / "edits.csv"
    manifest.write_text(
        "image_id,target_prompt,num_channels,beta\n"
        "anna,a smiling face,10,\n"
        "stranger,a smiling face,10,\n"
        "anna,a sad face,,0.99\n"
        f"anna,{'very ' * 90}old face,10,\n"
    )
    edit_dataset(root, str(manifest), models=models, relevance=RELEVANCE, device="cpu")
    rows = results(root, "run").to_pylist()
    assert [row["status"] for row in rows] == ["ok", "no_latent", "no_channel", "failed"]
    assert "align and invert it first" in rows[1]["error"]
    assert "choose beta <=" in rows[2]["error"]
    assert "expected at most 77" in rows[3]["error"]


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
    with pytest.raises(RunError, match="image_format: got 'webp', begun with 'png'"):
        edit_dataset(root, str(manifest), image_format="webp", **options)
    manifest.write_text("image_id,target_prompt,num_channels\nanna,a sad face,10\n")
    with pytest.raises(ValueError, match="got other rows than those planned before"):
        edit_dataset(root, str(manifest), **options)


def test_latents_of_other_tools_come_in_and_go_out(tmp_path, models):
    root = str(tmp_path / "ws")
    w_plus = torch.randn(3, 8, 28, generator=torch.Generator().manual_seed(1))
    torch.save(w_plus, tmp_path / "latents.pt")
    summary = import_latents(root, str(tmp_path / "latents.pt"), models=models, device="cpu")
    assert summary.counts == {"ok": 3}
    export_latents(root, str(tmp_path / "w_plus.npy"), models=models, device="cpu")
    np.testing.assert_array_equal(np.load(tmp_path / "w_plus.npy"), w_plus.numpy())
    assert (tmp_path / "w_plus.txt").read_text().split()[0] == "latents-00000"
    manifest = tmp_path / "edits.csv"
    manifest.write_text(
        "image_id,target_prompt,method,options\n"
        'latents-00001,a sad face,optimize,"{""steps"": 2}"\n'
    )
    edit_dataset(root, str(manifest), models=models, device="cpu")
    assert results(root, "run")["status"].to_pylist() == ["ok"]


def test_a_single_latent_is_not_taken_for_a_batch(tmp_path, models):
    np.save(tmp_path / "one.npy", np.zeros((8, 28), np.float32))
    with pytest.raises(ValueError, match=r"got latents of shape \[8, 28\], expected \[N, 8, 28\]"):
        import_latents(str(tmp_path), str(tmp_path / "one.npy"), models=models, device="cpu")


def test_the_run_says_what_it_was_made_with(finished):
    values = json.loads(read_url(f"{finished}/runs/run/run.json"))
    assert set(values["fingerprints"]) == {"generator", "encoder", "clip", "identity", "judge"}
    row = results(finished, "run").to_pylist()[0]
    assert row["generator_fingerprint"] == values["fingerprints"]["generator"]
    assert row["asset_fingerprint"] == values["directions_fingerprint"]
