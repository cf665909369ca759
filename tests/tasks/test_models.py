"""Bundles of weights: found, checked, and refused when they are not what they say."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from styleclip_ops.errors import CheckpointError, ConfigError
from tasks.bundles import BundleError, Weights, bundle_url, describe_bundle, read_bundle
from tasks.models import Models, open_models
from tasks.store.folders import Folder, sha256
from tasks.weights import add_to_bundle, convert_weights_file, verify_bundle


@pytest.fixture
def own(models, tmp_path) -> str:
    """A bundle of one's own to spoil."""
    shutil.copytree(Path(models).parent, tmp_path / "models")
    return str(tmp_path / "models" / "bundle.json")


def test_a_bundle_is_sound_wherever_it_is(root, models):
    place = Path(models).parent
    for path in filter(Path.is_file, place.rglob("*")):
        Folder(root).write(str(path.relative_to(place)), path.read_bytes())
    rows = verify_bundle(open_models(f"{root}/bundle.json", "cpu"))
    assert [row["role"] for row in rows] == ["generator", "encoder", "clip", "identity"]
    assert not any(row["error"] for row in rows)
    assert all(len(row["fingerprint"]) == 16 for row in rows)


def test_weights_may_be_at_any_url_and_other_content_than_expected_is_refused(own, root):
    content = Path(own).with_name("generator.safetensors").read_bytes()
    Folder(root).write("g.safetensors", content)
    generator = f"{root}/g.safetensors"
    with pytest.raises(BundleError, match="expected 0000"):
        add_to_bundle(own, "generator", Weights(generator, sha256="0" * 64))
    assert read_bundle(own).weights["generator"].sha256 == ""
    add_to_bundle(own, "generator", Weights(generator, sha256=sha256(content)))
    assert read_bundle(own).locate("generator") == generator
    assert open_models(own, "cpu").fingerprint("generator")


def test_a_digest_in_capitals_is_the_same(own, tmp_path):
    generator = tmp_path / "models" / "generator.safetensors"
    digest = sha256(generator.read_bytes()).upper()
    add_to_bundle(own, "generator", Weights(str(generator), sha256=digest))
    assert read_bundle(own).weights["generator"].sha256 == digest


def test_what_is_no_digest_is_called_so(own):
    with pytest.raises(BundleError, match="sha256: got 'abc', expected 64 hexadecimal digits"):
        add_to_bundle(own, "generator", Weights("generator.safetensors", sha256="abc"))


def test_weights_may_be_beside_the_folder_of_a_bundle(own, tmp_path):
    (tmp_path / "mine").mkdir()
    bundle = str(tmp_path / "mine" / "bundle.json")
    add_to_bundle(bundle, "generator", Weights("../models/generator.safetensors"))
    assert read_bundle(bundle).locate("generator") == f"{tmp_path}/models/generator.safetensors"
    # Both may move together.
    shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    moved = str(tmp_path.with_name("moved") / "mine" / "bundle.json")
    assert open_models(moved, "cpu").generator


def test_in_a_store_a_bundle_names_what_is_in_its_folder_or_a_whole_url():
    with pytest.raises(BundleError, match="generator: got the URI ../g.pt, expected one inside"):
        add_to_bundle("memory://mine/bundle.json", "generator", Weights("../g.pt"))


@pytest.mark.parametrize("role", ["alexnet", "lpips"])
def test_what_is_no_part_of_lpips_is_refused_before_the_other_is_there(own, role):
    with pytest.raises(CheckpointError, match=r"generator.safetensors: "):
        add_to_bundle(own, role, Weights("generator.safetensors"))
    other = {"alexnet": "lin0.model.1.weight", "lpips": "features.0.bias"}[role]
    torch.save({other: torch.zeros(64)}, Path(own).with_name("other.pth"))
    with pytest.raises(CheckpointError, match=rf"other.pth: .*{other.partition('.')[0][:3]}"):
        add_to_bundle(own, role, Weights("other.pth"))
    assert role not in read_bundle(own).weights


def test_weights_are_added_with_licence_and_source(own, tmp_path):
    weights = Weights("clip", licence="MIT", source="https://example.org")
    add_to_bundle(own, "judge", weights)
    assert describe_bundle(own)[-1]["licence"] == "MIT"
    with pytest.raises(BundleError, match="which is not there"):
        add_to_bundle(own, "judge", Weights("nowhere.pt"))
    (tmp_path / "models" / "edits.csv").write_text("image_id,target_prompt\nanna,a smile\n")
    with pytest.raises(CheckpointError, match=r"edits\.csv: got no checkpoint but a file"):
        add_to_bundle(own, "generator", Weights("edits.csv"))
    with pytest.raises(CheckpointError, match=r"generator\.safetensors: got a safetensors file"):
        add_to_bundle(own, "judge", Weights("generator.safetensors"))
    assert read_bundle(own).weights["generator"].uri == "generator.safetensors"


def test_the_bundle_of_the_product_takes_no_weights(own):
    with pytest.raises(BundleError, match="expected the path of a JSON file"):
        add_to_bundle("demo", "generator", Weights(read_bundle(own).locate("generator")))
    assert not Path("demo").is_file()


def test_a_folder_of_weights_may_hold_other_folders_and_is_for_clip_alone(own):
    folder = Path(read_bundle(own).locate("clip"))
    before = open_models(own, "cpu").fingerprint("clip")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"another")
    networks = Models(read_bundle(own), torch.device("cpu"))
    assert networks.fingerprint("clip") == before
    networks.load("clip")
    with pytest.raises(BundleError, match="clip: got a folder, expected a file of weights"):
        add_to_bundle(own, "encoder", Weights(str(folder)))


def test_a_device_that_torch_does_not_know_is_told_with_those_it_does(own):
    with pytest.raises(ConfigError, match="device: got 'gpu', expected auto, cpu, cuda, cuda:1"):
        open_models(own, "gpu")


def test_a_bundle_is_the_same_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bundle_url("my.json") == f"{tmp_path}/my.json"
    assert bundle_url("demo") == "demo"
    assert bundle_url("s3://weights/my.json") == "s3://weights/my.json"


def test_an_encoder_of_another_generator_is_found(own, tmp_path, models):
    from styleclip_ops.checkpoints import save_safetensors
    from styleclip_ops.encoder import E4eConfig, E4eEncoder

    small = open_models(models, "cpu").encoder.config
    encoder = E4eEncoder(E4eConfig(10, small.w_dim, 32, small.trunk))
    save_safetensors(encoder, tmp_path / "models" / "encoder.safetensors")
    errors = {
        row["role"]: row["error"] for row in verify_bundle(open_models(own, "cpu")) if row["error"]
    }
    assert errors == {
        "encoder": "encoder: got latents W+ of [10, 28], expected the generator's [8, 28]; take "
        "the one that was trained for this generator"
    }


@pytest.mark.parametrize("content", ["", "[]", '{"generator": 3}', '{"painter": {"uri": "x"}}'])
def test_what_is_no_bundle_is_refused(tmp_path, content):
    path = tmp_path / "bundle.json"
    path.write_text(content)
    with pytest.raises(BundleError):
        read_bundle(str(path))


def test_a_missing_network_says_how_to_add_it(tmp_path):
    path = tmp_path / "bundle.json"
    path.write_text(json.dumps({"generator": {"uri": "g.pt"}}))
    with pytest.raises(BundleError, match="styleclip weights add clip URI"):
        read_bundle(str(path)).locate("clip")
    # All of them at once.
    networks = open_models(str(path), "cpu")
    with pytest.raises(BundleError, match=r"expected also 'encoder', 'clip'; .* add encoder"):
        networks.fingerprints("generator", "encoder", "clip")


def test_a_generator_keeps_its_images_in_every_layout(models, tmp_path):
    import torch

    source = str(Path(models).parent / "generator.safetensors")
    convert_weights_file(source, str(tmp_path / "g.pt"), "generator", "rosinality")
    convert_weights_file(str(tmp_path / "g.pt"), str(tmp_path / "g.st"), "generator", "safetensors")
    bundle = tmp_path / "bundle.json"
    bundle.write_text(json.dumps({"generator": {"uri": "g.st"}}))
    w_plus = torch.randn(1, 8, 28)
    again = Models(read_bundle(str(bundle)), torch.device("cpu")).generator(w_plus)
    torch.testing.assert_close(
        again, open_models(models, "cpu").generator(w_plus), atol=1e-4, rtol=0
    )
