"""The doctor: sound assets are called so, and foreign ones are found though they claim to fit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from forging import invert_otherwise

from benchmarks.endurance.small_bundle import write_small_bundle
from styleclip_ops.checkpoints import save_safetensors
from styleclip_ops.encoder import E4eConfig, E4eEncoder
from styleclip_ops.errors import ConfigError
from styleclip_ops.mapper import LevelsMapper
from tasks.bundles import read_bundle
from tasks.checks.doctor import diagnose
from tasks.checks.findings import Finding
from tasks.directions import RelevanceConfig
from tasks.interchange import Import, plan_import
from tasks.inversion import invert_faces_shard
from tasks.models import open_models
from tasks.store.folders import Folder


def examine(ws, **options) -> list[Finding]:
    given = {"models": ws.models, "device": "cpu", "channels": 20, "images": 4} | options
    return [*diagnose(ws.root, **given)]


def wrong(findings: list[Finding]) -> str:
    (finding,) = [finding for finding in findings if finding.verdict != "sound"]
    assert finding.verdict == "wrong"
    return str(finding)


def test_a_sound_set(finished):
    findings = examine(finished)
    assert {finding.verdict for finding in findings} == {"sound"}
    said = "\n".join(map(str, findings))
    for what in ("device: cpu", "effect of 20 channels", "mapper a-face", "embeddings of 4"):
        assert what in said
    # What the same images measure is what is stored.
    assert "a median cosine of 1.00 to the stored directions" in said


def test_directions_of_another_generator_with_forged_fingerprints(
    finished, tmp_path, measure_directions
):
    (tmp_path / "models").mkdir()
    other = write_small_bundle(tmp_path / "models", seed=99)
    config = RelevanceConfig(num_images=4, num_statistics=50, mode="exact")
    root = str(tmp_path / "ws")
    foreign = measure_directions(root, other, config).folder
    (own,) = Path(finished.root).glob("directions/*")
    marks = {n: v for n, v in finished.group("directions").attrs.items() if "fingerprint" in n}
    shutil.rmtree(own)
    shutil.copytree(foreign.url, own)
    finished.group("directions").attrs.update(marks)
    found = [finding for finding in examine(finished) if finding.verdict == "wrong"]
    assert any("effect of 20 channels" in finding.what for finding in found)
    assert all("styleclip relevance" in finding.remedy for finding in found)


def test_directions_that_move_nothing(finished):
    finished.group("directions")["channel_clip_directions"][:] = 0
    (finding,) = [f for f in examine(finished) if f.verdict != "sound"]
    assert finding.verdict == "suspicious"
    assert "no channel that moves the embedding" in str(finding)
    with pytest.raises(ConfigError, match="channels: got 0"):
        examine(finished, channels=0)


def test_shuffled_directions(finished):
    array = finished.group("directions")["channel_clip_directions"]
    array[:] = np.random.default_rng(0).permutation(array[:])
    assert "the store is of other networks than it says, or damaged" in wrong(examine(finished))


def test_a_lost_chunk_and_an_unfinished_store(finished):
    (path,) = Path(finished.root).glob("directions/*/directions.zarr/channel_clip_directions/c")
    shutil.rmtree(path)
    assert "a chunk is lost" in wrong(examine(finished))
    for commit in path.parents[2].glob("_commits/*"):
        commit.unlink()
    (finding,) = [finding for finding in examine(finished) if finding.verdict != "sound"]
    assert (finding.verdict, finding.got) == ("suspicious", "a store that is not finished")


def test_a_mapper_of_another_width(finished):
    (path,) = Path(finished.root).glob("mappers/*/mapper.safetensors")
    save_safetensors(LevelsMapper(w_dim=30), path)
    said = wrong(examine(finished))
    assert f"mapper {path.parent.name}" in said
    assert "28" in said
    assert "30" in said


def test_latents_of_other_networks(finished):
    random = np.random.default_rng(0)
    invert_otherwise(finished.root, lambda w: 9 * random.normal(size=w.shape).astype(np.float32))
    assert "the latents are of other networks than they say" in wrong(examine(finished))


def test_latents_are_looked_at_though_the_first_shard_has_none(tmp_path, models):
    networks, root = open_models(models, "cpu"), str(tmp_path)
    shape = (1, networks.generator.num_ws, networks.generator.config.w_dim)
    for name, value in (("lost", np.nan), ("anna", 0.5)):
        latents = Import(np.full(shape, value, np.float32), [name])
        for shard in plan_import(root, latents, models, "cpu", 1):
            invert_faces_shard(root, models, "cpu", shard, 1)
    said = [str(one) for one in diagnose(root, models=models, device="cpu", channels=2, images=1)]
    assert any("embeddings of 1 inversions: a cosine of 1.000" in one for one in said)


def test_assets_of_other_networks_are_left_alone(finished):
    finished.group("directions").attrs.update(generator_fingerprint="another")
    finished.group("latents").attrs.update(generator_fingerprint="another")
    findings = examine(finished)
    assert [f.what[:7] for f in findings if f.got == "fingerprints of other networks"] == [
        "directi",
        "latents",
    ]
    told = {finding.got for finding in findings if finding.verdict == "suspicious"}
    # A run with these networks would measure and invert anew.
    assert told == {"none for this generator and CLIP", "stores of other networks only"}
    assert not any(finding.verdict == "wrong" for finding in findings)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"encoder": "other.safetensors"},
            "got latents W+ of [6, 28], expected the generator's [8, 28]",
        ),
        ({"identity": None}, "got no identity, expected one"),
        ({"generator": "bundle.json"}, "generator"),
    ],
)
def test_a_bundle_that_does_not_fit(finished, tmp_path, change, said):
    bundle = read_bundle(finished.models)
    values = {role: {"uri": bundle.locate(role)} for role in bundle.weights}
    config = bundle_trunk = open_models(finished.models, "cpu").encoder.config
    encoder = E4eEncoder(E4eConfig(6, config.w_dim, config.input_size, bundle_trunk.trunk))
    save_safetensors(encoder, tmp_path / "other.safetensors")
    values |= {role: {"uri": str(tmp_path / str(name))} for role, name in change.items()}
    values = {role: entry for role, entry in values.items() if change.get(role, "") is not None}
    (tmp_path / "bundle.json").write_text(json.dumps(values))
    findings = examine(finished, models=str(tmp_path / "bundle.json"))
    assert any(said in str(f) for f in findings if f.verdict == "wrong")
    assert findings[-1].expected == "sound ones to check them with"


def test_a_store_that_cannot_be_reached(finished, monkeypatch):
    monkeypatch.setattr(Folder, "names", lambda self, suffix="": 1 / 0)
    finding = next(
        f for f in diagnose("/nowhere", finished.models, "cpu", 4, 1) if "work" in f.what
    )
    assert finding.verdict == "wrong"
    assert "credentials in the environment" in finding.remedy


def test_a_damaged_card_of_a_mapper_is_told_plainly(finished):
    (path,) = Path(finished.root).glob("mappers/*/mapper.json")
    path.write_bytes(path.read_bytes()[:50])
    assert wrong(examine(finished)).startswith(f"{path}: got a damaged card, expected one with")
