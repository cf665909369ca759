"""The encoder: what it sees, how it is judged, and its stage end to end, tiny."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from demo.portraits.attributes import RATES
from demo.portraits.render import render_portraits
from demo.portraits.scene import sample_scenes
from demo.train.augmentation import FrameJitter, jitter_frames, wear_pictures
from demo.train.clock import Deadline
from demo.train.crops import cut_quad, render_crop
from demo.train.encoder import EncoderConfig, EncoderSources, EncoderTrainee
from demo.train.latents import LatentError
from demo.train.loop import Rhythm
from demo.train.probes import (
    Probe,
    ProbeConfig,
    load_probe,
    save_probe,
)
from demo.train.reconstruction import draw_latents, invert, measure_reconstruction
from demo.train.stages import STAGES, Plan
from demo.train.synthesis import SynthesisConfig, load_conditioned
from styleclip_ops.checkpoints import (
    load_arcface,
    load_e4e,
    load_generator,
    save_safetensors,
)
from styleclip_ops.generator import Generator, GeneratorConfig
from styleclip_ops.identity import ArcFace, ArcFaceConfig
from styleclip_ops.ir_se import IrSeConfig

TINY = IrSeConfig((1, 1, 1, 1), (16, 16, 16, 16))
STILL = FrameJitter(0, (0, 0), 0)


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def plan_in(folder):
    return Plan(
        runs=folder / "runs",
        models=folder / "models",
        device=torch.device("cpu"),
        size=32,
        num=8,
        held_out=4,
        crops=4,
        shard=4,
        synthesis=SynthesisConfig((12, 12, 8, 8), batch=4),
        encoder=EncoderConfig(trunk=TINY, renders=4, samples=2, crops=2, pictures=3),
        synthesis_steps=2,
        encoder_steps=4,
        rhythm=Rhythm(save=1000, say=1000),
    )


def run(plan, *stages):
    lines = []
    for stage in stages:
        STAGES[stage](plan, Deadline(), lines.append)
    return lines


def saved(plan, stage="encoder"):
    return torch.load(plan.runs / stage / "checkpoint.pt", weights_only=True)


def judges(models):
    torch.manual_seed(5)
    models.mkdir(exist_ok=True)
    save_probe(Probe(ProbeConfig(32, (8, 8), 8)), models / "probes.safetensors")
    arcface = ArcFace(ArcFaceConfig(8, TINY))
    save_safetensors(arcface, models / "identity.safetensors")
    return arcface.eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    plan = plan_in(tmp_path_factory.mktemp("encoder"))
    judges(plan.models)
    lines = run(plan, "data", "synthesis", "mapping", "encoder")
    return plan, lines


def test_frames_that_are_right_change_nothing():
    pictures = torch.rand(3, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(jitter_frames(pictures, STILL, random()), pictures)
    torch.testing.assert_close(wear_pictures(pictures, random(), share=0), pictures)


def test_a_frame_to_the_right_moves_the_face_to_the_left():
    pictures = torch.zeros(64, 1, 32, 32)
    pictures[..., 12:20, 12:20] = 1
    moved = jitter_frames(pictures, FrameJitter(0, (0.2, 0), 0), random())
    columns = (moved.sum(2) * torch.arange(32.0)).sum((1, 2)) / moved.sum((1, 2, 3))
    draws = torch.randn(64, 4, generator=random())
    torch.testing.assert_close(columns, 15.5 - 16 * 0.2 * draws[:, 1], atol=0.3, rtol=0)


def test_worn_pictures_stay_like_themselves_and_lose_detail():
    pictures = render_portraits([s.placements[0].portrait for s in sample_scenes(6, 1, 1)], 32)
    worn = wear_pictures(pictures, random(), share=1)
    assert worn.shape == pictures.shape
    assert 0.002 < (worn - pictures).abs().mean() < 0.12
    assert torch.equal(worn, wear_pictures(pictures, random(), share=1))


def test_an_upright_quad_is_cut_as_it_is():
    picture = torch.rand(3, 40, 48)
    quad = torch.tensor([[8.0, 4.0], [8.0, 36.0], [40.0, 36.0], [40.0, 4.0]])
    torch.testing.assert_close(cut_quad(picture, quad, 16), _pooled(picture[:, 4:36, 8:40]))


def _pooled(picture):
    return torch.nn.functional.avg_pool2d(picture, 2)


def test_crops_show_the_portrait_in_its_own_frame():
    for scene in sample_scenes(3, seed=6, people=1):
        crop = render_crop(scene, 64)[:, 20:44, 20:44]
        alone = render_portraits([scene.placements[0].portrait], 64)[0, :, 20:44, 20:44]
        shifted = (crop.roll(4, 2) - alone).abs().mean()
        assert (crop - alone).abs().mean() < 0.3 * shifted


@torch.no_grad()
def test_latent_errors_are_shares_of_the_variance():
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig((12, 12, 8, 8)))
    w = torch.randn(4000, 512) * torch.linspace(0.5, 2, 512)
    error = LatentError(generator, w)
    exact, mean = (generator.w_to_w_plus(v) for v in (w, w.mean(0).expand_as(w)))
    assert error(exact, w).item() == pytest.approx(0, abs=1e-6)
    assert error(mean, w).item() == pytest.approx(2, abs=0.01)
    assert error.share(exact[:, :1] - mean[:, :1]).item() == pytest.approx(1, abs=0.01)


def test_a_perfect_reconstruction_keeps_everything(tmp_path):
    identity = judges(tmp_path)
    pictures = torch.rand(5, 3, 32, 32) * 2 - 1
    torch.manual_seed(0)
    probe = Probe(ProbeConfig(32, (8, 8), 8)).eval()
    same = measure_reconstruction(pictures, pictures, probe, identity, batch=2)
    assert (same.l1, same.mean_kept) == (0, 1)
    assert same.identity == pytest.approx(1, abs=1e-5)
    other = measure_reconstruction(pictures, -pictures, probe, identity, batch=2)
    assert other.l1 > 0.5
    assert other.identity < 0.999
    assert {*other.kept} == {*RATES}
    assert all(round(5 * share) == pytest.approx(5 * share) for share in other.kept.values())


def test_written_encoder_is_read_by_the_loader_and_inverts(trained):
    plan, _ = trained
    encoder = load_e4e(plan.models / "encoder.safetensors")
    generator = load_generator(plan.models / "generator.safetensors")
    with torch.no_grad():
        mean = generator.mapping(torch.randn(4096, 512, generator=random())).mean(dim=0)
    torch.testing.assert_close(encoder.latent_avg[3], mean, atol=0.1, rtol=0)
    w_plus = invert(encoder, torch.rand(3, 3, 32, 32) * 2 - 1, batch=2)
    assert w_plus.shape == (3, generator.num_ws, 512)
    assert draw_latents(generator, w_plus, batch=2).shape == (3, 3, 32, 32)


def test_stage_leaves_a_curve_a_sheet_and_a_card(trained):
    plan, lines = trained
    for name in ("curve.jsonl", "curve.png", "sheet.png"):
        assert (plan.runs / "encoder" / name).stat().st_size > 0
    card = (plan.models / "encoder.md").read_text()
    assert "8 renders and 4 crops of 32 px" in card
    for figure in ("heldout_l1", "heldout_identity", "heldout_kept"):
        assert figure in card
    assert any("crops: 1 of 1 shards" in line for line in lines)


def test_interrupted_training_equals_uninterrupted(trained, tmp_path):
    plan, _ = trained
    other = copied(plan, tmp_path)
    run(replace(other, encoder_steps=2), "encoder")
    assert saved(other)["step"] == 2
    run(other, "encoder")
    mine, theirs = (saved(p)["trainee"]["average"] for p in (other, plan))
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name


def test_training_continues_from_its_weights_when_the_generator_moved(trained, tmp_path):
    plan, _ = trained
    other = copied(plan, tmp_path)
    run(other, "encoder")
    before = saved(other)["trainee"]["average"]
    further = replace(other, synthesis_steps=4, encoder_steps=1)
    run(further, "synthesis")
    run(further, "encoder")
    after = saved(further)
    assert after["step"] == 1
    assert json.loads((further.runs / "encoder" / "source.json").read_text())["step"] == 4
    name = "input_layer.0.weight"
    change = (after["trainee"]["average"][name] - before[name]).abs().max()
    assert 0 < change < 0.02
    assert not torch.equal(after["trainee"]["average"]["latent_avg"], before["latent_avg"])


def copied(plan, folder):
    """The same plan in a folder of its own, before its encoder."""
    shutil.copytree(plan.runs, folder / "runs", ignore=lambda *_: ["encoder"])
    shutil.copytree(plan.models, folder / "models")
    return replace(plan, runs=folder / "runs", models=folder / "models")


def test_training_lowers_the_loss(trained):
    plan, _ = trained
    shards = [plan.shards(name) for name in ("train", "crops", "heldout")]
    conditioned = load_conditioned(saved(plan, "synthesis")["trainee"])
    probe = load_probe(plan.models / "probes.safetensors")
    identity = load_arcface(plan.models / "identity.safetensors")
    sources = EncoderSources(conditioned, *shards, identity, probe)
    trainee = EncoderTrainee(plan.encoder, sources, plan.device)
    losses = [trainee.step(index).item() for index in range(60)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_pictures_that_no_batch_has_are_refused():
    with pytest.raises(ValueError, match="pictures: got 40, expected 4 to 20"):
        EncoderConfig(pictures=40)
