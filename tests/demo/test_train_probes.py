"""Attribute probes: training, judgement, the file."""

from dataclasses import replace

import pytest
import torch

from demo.portraits.attributes import RATES
from demo.portraits.render import render_portraits
from demo.portraits.sampling import parameter_vector, sample_portraits
from demo.train.balance import (
    attribute_labels,
    balanced_accuracies,
    balanced_accuracy,
    option_weights,
)
from demo.train.clock import Deadline
from demo.train.loop import Rhythm
from demo.train.probes import (
    Probe,
    ProbeConfig,
    load_probe,
    save_probe,
)
from demo.train.probing import ProbeTraining
from demo.train.shards import SeriesConfig, open_series, write_shard
from demo.train.stages import STAGES, Plan
from demo.train.variation import Variation, blur_pictures, vary_pictures
from styleclip_ops.errors import CheckpointError

SMALL = ProbeConfig(size=32, widths=(8, 12, 16), num_features=16)


def small_probe(seed=0):
    torch.manual_seed(seed)
    return Probe(SMALL).eval().requires_grad_(False)


def random_pictures(num=3, size=32, seed=0):
    return torch.rand(num, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def plan_in(folder, steps):
    return Plan(
        runs=folder / "runs",
        models=folder / "models",
        device=torch.device("cpu"),
        size=32,
        probes=ProbeTraining(SMALL, batch=16),
        probes_steps=steps,
        rhythm=Rhythm(save=1000, say=1000),
    )


def run_probes(plan):
    lines = []
    STAGES["probes"](plan, Deadline(), lines.append)
    return lines


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Render portraits to learn from, which are those to be judged by, too."""
    folder = tmp_path_factory.mktemp("probes")
    plan = plan_in(folder, steps=60)
    portraits = sample_portraits(64, seed=1)
    pictures, parameters = render_portraits(portraits, 32), parameter_vector(portraits)
    for name in ("train", "heldout"):
        open_series(plan.series_folder(name), SeriesConfig(1, 32, 64))
        write_shard(plan.series_folder(name), 0, pictures, parameters)
    return folder, pictures, parameters


@pytest.fixture(scope="module")
def trained(rendered):
    folder, *_ = rendered
    plan = plan_in(folder, steps=60)
    return plan, run_probes(plan)


def test_probe_learns_its_portraits(trained, rendered):
    plan, _ = trained
    _, pictures, parameters = rendered
    probe = load_probe(plan.models / "probes.safetensors")
    told = balanced_accuracies(probe.predict(pictures), attribute_labels(parameters))
    fresh = balanced_accuracies(small_probe().predict(pictures), attribute_labels(parameters))
    assert sum(told.values()) > sum(fresh.values()) + 2.5
    assert all(told[name] > fresh[name] for name in RATES)


def test_card_tells_the_accuracy_of_every_attribute(trained):
    plan, lines = trained
    card = (plan.models / "probes.md").read_text()
    assert all(f"balanced accuracy, {name} |" in card for name in RATES)
    assert "64 renders of 32 px" in card
    assert "heldout_error_blurred" in lines[0]
    assert "probes.safetensors" in lines[-1]
    for name in ("curve.jsonl", "curve.png", "sheet.png"):
        assert (plan.runs / "probes" / name).stat().st_size > 0


def test_interrupted_training_equals_uninterrupted(rendered, tmp_path):
    folder, *_ = rendered
    states = []
    for ends in ((4,), (2, 4)):
        plan = plan_in(tmp_path / str(len(ends)), steps=0)
        plan.runs.mkdir(parents=True)
        (plan.runs / "data").symlink_to(folder / "runs" / "data")
        for end in ends:
            run_probes(replace(plan, probes_steps=end))
        saved = torch.load(plan.runs / "probes" / "checkpoint.pt", weights_only=True)
        states.append(saved["trainee"])
    once, twice = states
    for part in ("model", "average"):
        for name, weights in once[part].items():
            assert torch.equal(weights, twice[part][name]), name


def test_written_probe_judges_the_same(tmp_path):
    probe = small_probe().half().float()
    save_probe(probe, tmp_path / "probe.safetensors")
    again = load_probe(tmp_path / "probe.safetensors")
    pictures = random_pictures()
    assert again.config == SMALL
    torch.testing.assert_close(again.features(pictures), probe.features(pictures))
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())


def test_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "probe.safetensors"
    path.write_bytes(b"no probe")
    with pytest.raises(CheckpointError, match="probe.safetensors"):
        load_probe(path)


def test_probabilities_and_options_agree():
    probe, pictures = small_probe(), random_pictures(5, size=48)
    told, chances = probe.predict(pictures), probe.probabilities(pictures)
    assert [*told] == [*chances] == [*RATES]
    for name, rates in RATES.items():
        assert chances[name].shape == (5, len(rates))
        torch.testing.assert_close(chances[name].sum(dim=1), torch.ones(5))
        assert torch.equal(chances[name].argmax(dim=1), told[name])


def test_batch_equals_loop():
    probe, pictures = small_probe(), random_pictures(4)
    alone = torch.cat([probe.features(picture[None]) for picture in pictures])
    torch.testing.assert_close(probe.features(pictures), alone)


def test_larger_pictures_are_seen_as_smaller_ones():
    probe, pictures = small_probe(), blur_pictures(random_pictures(), 8)
    large = pictures.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    miss = (probe.features(large) - probe.features(pictures)).abs().mean()
    assert miss < 0.05 * probe.features(pictures).abs().mean()


def test_labels_are_the_options_of_the_portraits():
    portraits = sample_portraits(20, seed=4)
    labels = attribute_labels(parameter_vector(portraits))
    for name, rates in RATES.items():
        options = [*rates]
        assert [options[i] for i in labels[name]] == [getattr(p, name) for p in portraits]


def test_balance_counts_every_option_the_same():
    labels = torch.tensor([0] * 9 + [1])
    always = torch.zeros(10, dtype=torch.long)
    assert balanced_accuracy(always, labels) == 0.5
    assert balanced_accuracy(labels, labels) == 1
    assert balanced_accuracy(torch.full_like(labels, 2), labels) == 0
    weights = option_weights(labels, 2)
    assert 9 * weights[0] == pytest.approx(float(weights[1]))


def test_variation_keeps_the_picture_and_depends_on_its_generator_only():
    pictures = blur_pictures(random_pictures(8), 4)
    first, again, other = (
        vary_pictures(pictures, Variation(), torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == pictures.shape
    assert (first - pictures).abs().mean() < 0.5
    assert (first != pictures).flatten(1).any(dim=1).all()


def test_blur_removes_detail_and_keeps_the_mean():
    pictures = random_pictures()
    blurred = blur_pictures(pictures)
    assert blurred.std() < 0.5 * pictures.std()
    assert (blurred.mean() - pictures.mean()).abs() < 0.02
