"""The identity network: persons, verification, margin loss, training, dlib beside it."""

import math
from dataclasses import asdict, replace

import pytest
import torch

from demo.portraits.render import render_portraits
from demo.portraits.sampling import parameter_vector, sample_portraits
from demo.train.clock import Deadline
from demo.train.identity import HeldOutPersons, IdentityConfig
from demo.train.loop import Rhythm
from demo.train.margin import PersonCenters, margin_loss
from demo.train.persons import (
    NUM_IDENTITY_VALUES,
    PersonsConfig,
    identity_values,
    person_portraits,
    render_persons,
)
from demo.train.recognition import FaceRecognizer
from demo.train.shards import PortraitShards, SeriesConfig, open_series, to_pictures, write_shard
from demo.train.stages import STAGES, Plan
from demo.train.verification import Pairs, roc_auc
from styleclip_ops.checkpoints import load_arcface
from styleclip_ops.identity import ArcFaceConfig
from styleclip_ops.ir_se import IrSeConfig

PERSONS = PersonsConfig(seed=9, persons=4, portraits=2, size=128)
SMALL = ArcFaceConfig(24, IrSeConfig((1, 1, 1, 1), (16, 16, 16, 16)))


def plan_in(folder, steps):
    return Plan(
        runs=folder / "runs",
        models=folder / "models",
        device=torch.device("cpu"),
        size=32,
        persons=PERSONS,
        identity=IdentityConfig(SMALL, batch=8, others=8),
        identity_steps=steps,
        rhythm=Rhythm(save=1000, say=1000),
    )


def run_identity(plan):
    lines = []
    STAGES["identity"](plan, Deadline(), lines.append)
    return lines


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    plan = plan_in(tmp_path_factory.mktemp("identity"), steps=3)
    portraits = sample_portraits(16, seed=1)
    open_series(plan.series_folder("train"), SeriesConfig(1, 32, 16))
    pictures = render_portraits(portraits, 32)
    write_shard(plan.series_folder("train"), 0, pictures, parameter_vector(portraits))
    return plan, run_identity(plan)


def held_out(plan):
    folder = plan.runs / "data" / f"{PERSONS.size}px" / "persons"
    return HeldOutPersons(PortraitShards(folder), PERSONS.portraits, 32, plan.device)


def test_a_person_stays_and_all_else_changes():
    first, second = person_portraits(PERSONS, 0)
    other, _ = person_portraits(PERSONS, 1)
    assert first.identity == second.identity != other.identity
    mine, again = asdict(first), asdict(second)
    same = [name for name in mine if isinstance(mine[name], float) and mine[name] == again[name]]
    assert same == []
    values = identity_values(parameter_vector([first, second, other]))
    assert values.shape == (3, NUM_IDENTITY_VALUES)
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_persons_are_rendered_once_and_continued(trained, tmp_path):
    plan, lines = trained
    assert sum("of 4 persons" in line for line in lines) == PERSONS.persons
    render_persons(tmp_path, PERSONS, Deadline(0), print, plan.device)
    assert not [*tmp_path.glob("pictures-*.npy")]
    render_persons(tmp_path, replace(PERSONS, persons=1), Deadline(), print, plan.device)
    wanted = render_portraits(person_portraits(PERSONS, 0), PERSONS.size)
    got = to_pictures(PortraitShards(tmp_path).levels(torch.arange(2)))
    assert (got - wanted.clamp(-1, 1)).abs().max() < 0.6 / 127.5


def test_held_out_pairs_are_all_pairs(trained):
    plan, _ = trained
    persons = held_out(plan)
    assert persons.persons.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(persons.pairs.same) == 28
    assert int(persons.pairs.same.sum()) == 4
    assert persons.pictures.shape == (8, 3, 32, 32)


def test_auc_is_the_chance_of_the_right_order():
    same = torch.tensor([True, True, False, False])
    assert roc_auc(torch.tensor([4.0, 3.0, 2.0, 1.0]), same) == 1
    assert roc_auc(torch.tensor([1.0, 2.0, 3.0, 4.0]), same) == 0
    assert roc_auc(torch.tensor([4.0, 1.0, 2.0, 3.0]), same) == 0.5
    assert roc_auc(torch.ones(4), same) == 0.5
    with pytest.raises(ValueError, match="4 of one kind"):
        roc_auc(torch.ones(4), torch.ones(4, dtype=torch.bool))


def test_likeness_of_pairs():
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    pairs = Pairs.of_persons(torch.tensor([0, 1, 1]))
    assert pairs.same.tolist() == [False, False, True]
    torch.testing.assert_close(pairs.cosines(embeddings), torch.tensor([0.0, 0.6, 0.8]))
    distances = (2 - 2 * pairs.cosines(embeddings)).sqrt()
    torch.testing.assert_close(pairs.distances(embeddings), distances)


def test_margin_handicaps_the_own_centre():
    cosines = torch.tensor([[0.5, 0.5, 0.5]])
    assert margin_loss(cosines, 10.0, 0.0).item() == pytest.approx(math.log(3))
    exact = math.log(1 + 2 * math.exp(10 * 0.2))
    assert margin_loss(cosines, 10.0, 0.2).item() == pytest.approx(exact)
    nearer = torch.tensor([[0.9, 0.5, 0.5]])
    assert margin_loss(nearer, 10.0, 0.2) < margin_loss(cosines, 10.0, 0.2)


def test_centres_follow_the_geometry():
    torch.manual_seed(0)
    centers = PersonCenters(16)
    values = torch.randn(2, NUM_IDENTITY_VALUES)
    near, far = centers(torch.stack([values[0], values[0] + 0.01 * values[1], values[1]]))[1:]
    own = centers(values[:1])[0]
    assert own.norm().item() == pytest.approx(1)
    assert own @ near > own @ far


def test_written_network_embeds(trained):
    plan, lines = trained
    path = plan.models / "identity.safetensors"
    network = load_arcface(path)
    assert network.config == SMALL
    embeddings = network.embed(held_out(plan).pictures)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(8))
    assert (embeddings[0] - embeddings[2]).abs().max() > 1e-3
    assert any(str(path) in line for line in lines)


def test_card_and_curve_tell_both_networks(trained):
    plan, _ = trained
    card = (plan.models / "identity.md").read_text()
    assert "ROC AUC, 32 px" in card
    assert "ROC AUC where found, dlib's network, 128 px" in card
    assert "8 portraits of 4 persons" in card
    for name in ("curve.jsonl", "curve.png", "sheet.png"):
        assert (plan.runs / "identity" / name).stat().st_size > 0


def test_training_changes_network_and_centres(trained, tmp_path):
    plan, _ = trained
    other = replace(plan, runs=tmp_path / "runs", models=tmp_path / "models", identity_steps=1)
    other.runs.mkdir()
    (other.runs / "data").symlink_to(plan.runs / "data")
    run_identity(other)
    early, late = (
        torch.load(p.runs / "identity" / "checkpoint.pt", weights_only=True) for p in (other, plan)
    )
    assert (early["step"], late["step"]) == (1, 3)
    for part in ("model", "centers", "average"):
        assert any(
            not torch.equal(weights, late["trainee"][part][name])
            for name, weights in early["trainee"][part].items()
        ), part
    run_identity(replace(other, identity_steps=3))
    again = torch.load(other.runs / "identity" / "checkpoint.pt", weights_only=True)
    for name, weights in late["trainee"]["average"].items():
        assert torch.equal(weights, again["trainee"]["average"][name]), name


def test_dlib_knows_a_portrait_again():
    portraits = person_portraits(PERSONS, 0)
    pictures = render_portraits(portraits[:1], 256).repeat(2, 1, 1, 1)
    pictures[1] = (pictures[1] * 0.98).clamp(-1, 1)
    blank = torch.zeros(1, 3, 256, 256)
    told = FaceRecognizer().recognize(torch.cat([pictures, blank]))
    assert told.found.tolist() == [True, True, False]
    assert (told.embeddings[0] - told.embeddings[1]).norm() < 0.2
    assert told.embeddings[2].abs().sum() == 0
