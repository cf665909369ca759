"""The demo CLIP: what captions state, the loss on their truth, its judges, and its stage."""

from dataclasses import replace
from random import Random

import pytest
import torch
import torch.nn.functional as F

from demo.portraits.attributes import RATES, Portrait
from demo.portraits.captions import caption, class_prompts
from demo.portraits.sampling import PARAMETER_SLICES, parameter_vector, sample_portraits
from demo.train.agreement import EDITS, EditPairs, measure_agreement, render_edit_pairs
from demo.train.clip import ClipTrainee, ClipTraining, TowerSize, build_clip, truth_loss
from demo.train.clock import Deadline
from demo.train.descent import Schedule
from demo.train.loop import Rhythm
from demo.train.stages import STAGES, Plan
from demo.train.statements import (
    NEUTRAL_CAPTIONS,
    NUM_OPTIONS,
    Captions,
    denied_options,
    option_column,
    sample_captions,
)
from demo.train.zero_shot import zero_shot
from styleclip_ops.checkpoints import load_clip

TINY = ClipTraining(
    image=TowerSize(32, 1, 2),
    text=TowerSize(16, 1, 2),
    embedding=24,
    batch=8,
    captions=12,
    pool=200,
    classify_first=2,
    schedule=Schedule(3e-3, warmup=2),
)


ANY_HAT = ("a face with a hat", "a face wearing a hat")


def plan_in(folder, steps=4):
    return Plan(
        runs=folder / "runs",
        models=folder / "models",
        device=torch.device("cpu"),
        size=32,
        num=16,
        held_out=8,
        shard=8,
        edit_pairs=1,
        clip=TINY,
        second_clip=replace(TINY, seed=50),
        clip_steps=steps,
        rhythm=Rhythm(save=1000, say=1000),
    )


def run(plan, *stages):
    for stage in stages:
        STAGES[stage](plan, Deadline(), lambda line: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    plan = plan_in(tmp_path_factory.mktemp("clip"))
    run(plan, "data", "clip", "second-clip")
    return plan


@pytest.fixture
def trainee(trained):
    def begin(config=TINY):
        return ClipTrainee(config, trained.shards("train"), judge=None, device=trained.device)

    return begin


def allowed(text, attribute):
    options = zip(RATES[attribute], denied_options(text)[PARAMETER_SLICES[attribute]], strict=True)
    return {option for option, denied in options if not denied}


def test_captions_are_true_of_their_portrait_and_state_something():
    portraits = sample_portraits(200, seed=11)
    options = parameter_vector(portraits)[:, :NUM_OPTIONS]
    rng = Random(0)
    for portrait, own in zip(portraits, options, strict=True):
        denied = denied_options(caption(portrait, rng))
        assert denied.any()
        assert not (denied * own).any()


def test_class_prompts_state_their_option_alone():
    for attribute in RATES:
        for option, prompts in class_prompts(attribute).items():
            for prompt in prompts:
                wanted = {"beanie", "brimmed"} if prompt in ANY_HAT else {option}
                assert allowed(prompt, attribute) == wanted, prompt


@pytest.mark.parametrize(
    ("text", "attribute", "options"),
    [
        ("a person with a hat", "hat", {"beanie", "brimmed"}),
        ("a face not smiling", "expression", {"neutral", "surprised", "sad", "angry"}),
        ("wearing glasses", "glasses", {"glasses"}),
        ("a face without glasses", "glasses", {"none"}),
        ("golden earrings", "age", {"young", "adult", "old"}),
        ("a human face", "gender", {"woman", "man"}),
    ],
)
def test_phrases_are_read_as_meant(text, attribute, options):
    assert allowed(text, attribute) == options


def test_hair_colour_is_false_of_the_bald():
    red = Captions(["a face with red hair"], denied_options("a face with red hair")[None])
    portraits = [Portrait(hair_color="red", hair_style=style) for style in ("short", "bald")]
    assert red.truth(parameter_vector(portraits)).tolist() == [[1.0], [0.0]]


def test_sampled_captions_vary_and_come_back():
    captions, again = sample_captions(400, seed=3), sample_captions(400, seed=3)
    assert captions.texts == again.texts
    assert torch.equal(captions.denied, again.denied)
    assert sample_captions(5, seed=4).texts != captions.texts[:5]
    neutral = captions.denied.sum(dim=1) == 0
    assert 10 <= neutral.sum() <= 60
    assert {*NEUTRAL_CAPTIONS} & {captions.texts[i] for i in neutral.nonzero()[:, 0].tolist()}
    assert sum(text.startswith("a tattoo of") for text in captions.texts) > 0


def test_truth_loss_is_least_where_statements_add():
    truth = torch.tensor(
        [[1, 1, 0, 1, 0], [1, 0, 1, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]]
    ).float()
    rates = truth.mean(dim=0).clamp_min(0.01)
    best = (truth / rates).clamp_min(1e-9).log().requires_grad_()
    (slope,) = torch.autograd.grad(truth_loss(best, truth, rates), best)
    assert slope.abs().max() < 1e-6
    # Captions 1 and 3 are true of the same images: to tell them apart costs.
    apart = best.detach() + torch.tensor([0, 2.0, 0, 0, 0])
    assert truth_loss(apart, truth, rates) > truth_loss(best, truth, rates) + 0.05


class Oracle:
    """Embed texts by what they state, as the options they allow."""

    def __init__(self, wrong=None):
        self._told = {}
        for attribute in RATES:
            for option, prompts in class_prompts(attribute, held_out=True).items():
                column = option_column(attribute, option)
                column = option_column(*wrong) if (attribute, option) == wrong else column
                for prompt in prompts:
                    self._told.setdefault(prompt, torch.zeros(NUM_OPTIONS))[column] = 1

    def embed_texts(self, texts):
        return F.normalize(torch.stack([self._told[text] for text in texts]), dim=1)


def test_zero_shot_counts_what_can_be_seen():
    parameters = parameter_vector(sample_portraits(300, seed=12))
    options = parameters[:, :NUM_OPTIONS].clone()
    women = options[:, option_column("gender", "woman")] == 1
    options[women, PARAMETER_SLICES["beard"]] = torch.tensor([0.0, 0.0, 1.0])
    accuracies = zero_shot(Oracle(), F.normalize(options, dim=1), parameters)
    assert accuracies.keys() > {*RATES}
    assert {found.plain for found in accuracies.values()} == {1.0}
    # A third of the options always missed: balanced accuracy says so, plain accuracy less.
    options[:, option_column("glasses", "sunglasses")] = 0
    smiling, sad = (option_column("expression", name) for name in ("smiling", "sad"))
    options[:, sad] += options[:, smiling]
    options[:, smiling] = 0
    missed = zero_shot(Oracle(), F.normalize(options, dim=1), parameters)
    assert missed["glasses"].balanced == pytest.approx(2 / 3)
    assert missed["glasses"].plain > 0.75
    assert missed["expression: smiling"].balanced == pytest.approx(0.5)


class Pixels:
    """Embed an image as its first pixels, and a prompt as the pixel of its edit."""

    def embed_images(self, images):
        return F.normalize(images[:, 0].flatten(1)[:, : len(EDITS) + 1], dim=1)

    def embed_texts(self, texts):
        rows = [[float(f" {name}." in f" {text}.") for name in EDITS] for text in texts]
        return F.normalize(torch.tensor([[1.0, *row] for row in rows]), dim=1)


def test_agreement_is_of_the_edit_with_its_own_prompt():
    before = torch.zeros(len(EDITS), 2, 3, 4, 4)
    before[..., 0, 0] = 1
    after = before.flatten(3).clone()
    for i in range(len(EDITS)):
        after[i, :, :, i + 1] = 1
    # The second pair of the first edit moves where the second prompt says.
    after[0, 1] = after[1, 1]
    found = measure_agreement(Pixels(), EditPairs(before, after.unflatten(3, (4, 4))))
    assert [*found] == [*EDITS]
    first, second = (found[name] for name in [*EDITS][:2])
    assert first.chosen == 0.5
    assert second.chosen == 1.0
    assert second.cosine > 0.9 > first.cosine


def test_edit_pairs_differ_by_their_edit():
    pairs = render_edit_pairs(1, seed=5, size=32, device=torch.device("cpu"))
    assert pairs.before.shape == pairs.after.shape == (len(EDITS), 1, 3, 32, 32)
    changed = (pairs.after - pairs.before).abs().flatten(2)
    assert (changed.amax(dim=2) > 0.2).all()
    assert (changed.amin(dim=2) == 0).all()


def test_clip_has_the_original_architecture():
    clip = build_clip(TINY, image_size=32)
    config = clip.model.config
    assert config.text_config.vocab_size == 49408
    assert (clip.context_length, clip.image_size, clip.embedding_dim) == (77, 32, 24)
    assert {config.text_config.hidden_act, config.vision_config.hidden_act} == {"quick_gelu"}
    # The end token must be read as the end, however a text is padded.
    alone, padded = clip.embed_texts(["a face"]), clip.embed_texts(["a face", "a face " * 9])
    torch.testing.assert_close(alone[0], padded[0])


def test_interrupted_run_equals_uninterrupted_run(trainee):
    through, first, then = trainee(), trainee(), trainee()
    for index in range(4):
        through.step(index)
    for index in range(2):
        first.step(index)
    then.restore(first.state())
    for index in range(2, 4):
        then.step(index)
    for name, weight in through.clip.state_dict().items():
        assert torch.equal(weight, then.clip.state_dict()[name]), name


def test_captions_are_learned_after_attributes(trainee):
    mine = trainee()
    images, texts = (f"model.{name}.weight" for name in ("visual_projection", "text_projection"))
    states = [mine.state()["model"][name].clone() for name in (images, texts)]
    for index in range(TINY.classify_first):
        mine.step(index)
    assert not torch.equal(mine.state()["model"][images], states[0])
    assert torch.equal(mine.state()["model"][texts], states[1])
    mine.step(TINY.classify_first)
    assert not torch.equal(mine.state()["model"][texts], states[1])


def test_training_lowers_both_losses(trainee):
    mine = trainee(replace(TINY, classify_first=40))
    losses = [mine.step(index).item() for index in range(100)]
    assert sum(losses[36:40]) < 0.8 * sum(losses[:4])
    assert sum(losses[96:100]) < 0.8 * sum(losses[40:44])


def test_written_folder_is_read_as_any_clip(trained):
    clip = load_clip(trained.models / "clip")
    images = torch.rand(2, 3, 48, 48) * 2 - 1
    embedded = clip.embed_images(images)
    assert embedded.shape == (2, 24)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(2))
    checkpoint = torch.load(trained.runs / "clip" / "checkpoint.pt", weights_only=True)
    average = checkpoint["trainee"]["average"]
    for name, weight in clip.model.state_dict().items():
        assert torch.equal(weight, average[f"model.{name}"].half().float()), name
    assert sorted(p.name for p in (trained.models / "clip").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_second_clip_shares_no_weights_with_the_first(trained):
    first, second = (load_clip(trained.models / name) for name in ("clip", "second-clip"))
    assert second.embedding_dim == first.embedding_dim
    alike = [
        name
        for name, weight in first.model.state_dict().items()
        if weight.ndim > 1 and torch.equal(weight, second.model.state_dict()[name])
    ]
    assert not alike


@pytest.mark.parametrize("name", ["clip", "second-clip"])
def test_card_holds_the_figures(trained, name):
    card = (trained.models / f"{name}.md").read_text(encoding="utf-8")
    assert f"python -m demo.train {name}`" in card
    assert "16 renders of 32 px" in card
    assert "MIT" in card
    for row in (*RATES, *EDITS):
        assert f"| {row} " in card
