"""The judgement: wishes, trials of the methods, figures of the generator, and its stage, tiny."""

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from demo.portraits.attributes import RATES
from demo.train import overview
from demo.train.clock import Deadline
from demo.train.crops import photographed_crops
from demo.train.editing import (
    DirectionAsset,
    EditConfig,
    EditFigures,
    EditModels,
    Optimization,
    Setting,
    edit_globally,
    measure_directions,
)
from demo.train.generation import compare_generation, look_at, sample_pictures
from demo.train.judge import JudgeConfig
from demo.train.overview import draw_overview
from demo.train.probes import Probe, ProbeConfig, save_probe
from demo.train.reconstruction import draw_latents
from demo.train.stages import STAGES, Plan
from demo.train.tables import markdown_table, set_section
from demo.train.trials import (
    Trial,
    best_setting,
    describe_trials,
    methods,
    read_trials,
    strip_path,
    try_methods,
)
from demo.train.wishes import SURE, WISHES, Sight, Wish, look
from styleclip_ops.checkpoints import save_safetensors
from styleclip_ops.encoder import E4eConfig, E4eEncoder
from styleclip_ops.generator import Generator, GeneratorConfig
from styleclip_ops.identity import ArcFace, ArcFaceConfig
from styleclip_ops.ir_se import IrSeConfig
from styleclip_ops.optimize import OptimizeConfig

TINY = IrSeConfig((1, 1, 1, 1), (16, 16, 16, 16))
SMILE = Wish("a smiling face", "expression", ("smiling",))
EDIT = EditConfig(
    relevance_mode="fast",
    relevance_samples=2,
    statistics_samples=20,
    num_channels=(4, 8),
    global_alphas=(0.0, 3.0),
    mapper_steps=3,
    mapper_batch=2,
    mapper_alphas=(0.0, 1.0),
    optimize=(
        Optimization(OptimizeConfig(steps=4), from_samples=False),
        Optimization(OptimizeConfig(steps=4, l2_lambda=0.1, id_lambda=0.5), from_samples=True),
    ),
    optimize_alphas=(0.0, 1.0),
)


class Colors:
    """A stand-in for CLIP: mean colours, and a word decides which is wanted."""

    def embed_images(self, images):
        return F.normalize(images.mean(dim=(2, 3)) + 0.1, dim=1)

    def embed_texts(self, texts):
        rows = [[1.0, "smiling" in text, "old" in text] for text in texts]
        return F.normalize(torch.tensor(rows), dim=1)


class Rows:
    """A stand-in for the identity network."""

    def embed(self, images):
        return F.normalize(F.adaptive_avg_pool2d(images, (4, 1)).flatten(1) + 0.1, dim=1)


def sight(unsure=(), **options):
    """What a probe says of one ordinary man, but for `options`."""
    plain = {"gender": "man", "age": "young", "hair_color": "black", "hair_style": "short"}
    said = dict.fromkeys(RATES, "none") | plain | {"expression": "neutral"} | options
    return Sight(
        {name: torch.tensor([[*RATES[name]].index(said[name])]) for name in RATES},
        {name: torch.tensor([name not in unsure]) for name in RATES},
    )


def random_generator():
    torch.manual_seed(1)
    return Generator(GeneratorConfig((12, 12, 8, 8), 16, 16)).eval().requires_grad_(False)


@pytest.fixture
def models():
    generator = random_generator()
    torch.manual_seed(2)
    probe = Probe(ProbeConfig(32, (8, 8), 8)).eval()
    return EditModels(generator, Colors(), Rows(), probe)


@pytest.fixture
def w_plus(models):
    w = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    return models.generator.w_to_w_plus(w)


def test_a_wish_is_granted_by_any_of_its_options():
    hat = next(wish for wish in WISHES if wish.attribute == "hat")
    assert [bool(hat.granted(sight(hat=h))) for h in RATES["hat"]] == [False, True, True]


def test_prompts_are_tried_where_they_can_come_true():
    assert SMILE.possible(sight())
    assert not SMILE.possible(sight(expression="smiling"))
    beard = Wish("a face with a beard", "beard", ("full",))
    assert beard.possible(sight())
    assert not beard.possible(sight(gender="woman"))
    red = Wish("a face with red hair", "hair_color", ("red",))
    assert red.possible(sight())
    assert not red.possible(sight(hair_style="bald"))


def test_side_effects_are_the_share_of_other_attributes_that_changed():
    before = sight()
    assert SMILE.side_effects(before, sight(expression="smiling")) == 0
    after = sight(expression="smiling", age="old", hat="beanie")
    assert SMILE.side_effects(before, after).item() == pytest.approx(2 / 10)


def test_what_the_probe_was_not_sure_of_is_left_out():
    before = sight(unsure=("age", "hat"))
    after = sight(expression="smiling", age="old", beard="full")
    assert SMILE.side_effects(before, after).item() == pytest.approx(1 / 8)


def test_sight_is_the_likeliest_option_and_whether_it_is_likely():
    class Teller:
        def probabilities(self, images):
            first = images.mean(dim=(1, 2, 3))
            return {"hat": torch.stack([first, 1 - first, 0 * first], dim=1)}

    pictures = torch.tensor([0.1, 0.4, SURE + 0.01])[:, None, None, None].expand(3, 3, 8, 8)
    seen = look(Teller(), pictures, batch=2)
    assert seen.options["hat"].tolist() == [1, 1, 0]
    assert seen.sure["hat"].tolist() == [True, False, True]
    assert seen.take(torch.tensor([2])).shows("hat", "none").tolist() == [True]


def test_what_goes_together_in_the_data_may_follow():
    beard = Wish("a face with a beard", "beard", ("full",))
    moustache = Wish("a face with a moustache", "moustache", ("moustache",))
    bearded = sight(beard="full", moustache="moustache")
    assert beard.side_effects(sight(), bearded) == 0
    assert moustache.side_effects(sight(), bearded).item() == pytest.approx(1 / 10)
    old = Wish("an old face", "age", ("old",))
    assert old.side_effects(sight(), sight(age="old", hair_color="grey")) == 0


def test_what_cannot_be_seen_is_left_out():
    bald = Wish("a bald head", "hair_style", ("bald",))
    assert bald.side_effects(sight(), sight(hair_style="bald", hair_color="red")) == 0
    hat = Wish("a face with a hat", "hat", ("beanie",))
    hidden = sight(hat="beanie", hair_style="bald")
    assert hat.side_effects(sight(), hidden) == 0
    assert SMILE.side_effects(sight(), sight(hair_style="bald")).item() > 0


def test_wishes_name_options_that_exist():
    assert len(WISHES) >= 8
    with pytest.raises(ValueError, match="expected options of RATES"):
        Wish("a face with a crown", "hat", ("crown",))


@pytest.mark.parametrize("edit", ["global", "mapper", "optimize"])
def test_no_strength_is_no_edit_and_strength_is_one(models, w_plus, edit):
    asset = measure_directions(models, EDIT)
    edits = dict(methods(models, asset, EDIT)[edit]("a smiling face", w_plus[:3]))
    source = draw_latents(models.generator, w_plus[:3])
    for setting, pictures in edits.items():
        same = (pictures - source).abs().max() < 1e-5
        assert same == (setting.alpha == 0), setting


def test_methods_move_the_embedding_towards_the_prompt(models, w_plus):
    text = models.clip.embed_texts(["a smiling face"])
    descent = Optimization(OptimizeConfig(steps=20), from_samples=False)
    config = replace(EDIT, optimize=(descent,), mapper_steps=40, mapper_rate=20.0)
    asset = measure_directions(models, config)
    source = models.clip.embed_images(draw_latents(models.generator, w_plus[:8])) @ text[0]
    for name, method in methods(models, asset, config).items():
        *_, (_, pictures) = method("a smiling face", w_plus[:8])
        assert (models.clip.embed_images(pictures) @ text[0]).mean() > source.mean(), name


def test_global_edits_keep_to_the_chosen_channels(models, w_plus):
    channels = int(models.generator.layout.editable.sum())
    directions = F.normalize(torch.randn(channels, 3), dim=1)
    directions[:, 1] = 0
    directions[7] = torch.tensor([0.0, 1.0, 0.0])
    asset = DirectionAsset(directions, torch.zeros(models.generator.layout.size))
    edits = dict(edit_globally(models, asset, "a smiling face", w_plus[:2], EDIT))
    source = draw_latents(models.generator, w_plus[:2])
    assert all((pictures - source).abs().max() < 1e-5 for pictures in edits.values())


def test_optimization_and_mapper_depend_on_the_seed_only(models, w_plus):
    asset = measure_directions(models, EDIT)
    for name in ("mapper", "optimize"):
        first, second = (
            dict(methods(models, asset, EDIT)[name]("a smiling face", w_plus[:2])) for _ in range(2)
        )
        assert all(torch.equal(first[setting], second[setting]) for setting in first)


def test_trials_are_judged_written_and_shown(models, w_plus, tmp_path):
    wishes = [wish for wish in WISHES if wish.attribute in ("expression", "age")]
    asset = measure_directions(models, EDIT)
    tried, lines = methods(models, asset, EDIT), list[str]()
    trials = try_methods(models, tried, w_plus, wishes, 6, tmp_path, Deadline(), lines.append)
    assert len(lines) == len(trials) > 0
    for trial in trials:
        assert 0 < trial.sources <= 6
        still = trial.figures[next(s for s in trial.figures if s.alpha == 0)]
        assert (still.success, still.changed) == (0, 0)
        assert still.identity == pytest.approx(1, abs=1e-5)
    rows = [json.loads(line) for line in (tmp_path / "edits.jsonl").read_text().splitlines()]
    assert len(rows) == sum(len(trial.figures) for trial in trials)
    with Image.open(next(tmp_path.glob("global-*.png"))) as strip:
        assert strip.height > 3 * 2 * 32
    assert read_trials(tmp_path) == trials


def test_the_overview_shows_faces_and_their_edits_at_the_best_strength(models, w_plus, tmp_path):
    wish = next(wish for wish in WISHES if wish.attribute == "expression")
    tried = methods(models, measure_directions(models, EDIT), EDIT)
    trials = try_methods(models, tried, w_plus, [wish], 8, tmp_path, Deadline(), print)
    sheet = draw_overview(tmp_path)
    side = models.generator.resolution
    for row in range(1 + len(trials)):
        method = trials[max(row - 1, 0)].method
        number = 0
        if row:
            figures = trials[row - 1].figures
            best = best_setting(figures)
            number = 1 + [one for one in figures if one.is_like(best)].index(best)
        with Image.open(strip_path(tmp_path, method, wish.prompt)) as strip:
            at = 2 * (2 + number * (side + 2))
            wanted = strip.crop((4, at, 4 + 2 * side, at + 2 * side)).reduce(2)
        left, top = overview._MARGIN + 2, overview._HEAD + row * (side + 2) + 2
        assert sheet.crop((left, top, left + side, top + side)).tobytes() == wanted.tobytes()


def test_no_trial_is_begun_after_the_deadline(models, w_plus, tmp_path):
    tried = methods(models, measure_directions(models, EDIT), EDIT)
    assert try_methods(models, tried, w_plus, WISHES, 2, tmp_path, Deadline(0), print) == []


def test_best_strength_succeeds_most_among_the_gentle():
    figures = {
        Setting(1): EditFigures(0.5, 0.02, 0.9),
        Setting(2): EditFigures(0.8, 0.09, 0.8),
        Setting(3): EditFigures(0.9, 0.30, 0.5),
    }
    assert best_setting(figures) == Setting(2)
    assert best_setting({s: f for s, f in figures.items() if s.alpha == 3}) == Setting(3)


def test_tables_mark_the_best_and_count_what_is_reached():
    good, poor = EditFigures(0.9, 0.05, 0.8), EditFigures(0.1, 0.01, 1.0)
    trials = [
        Trial("a", "global", 4, {Setting(1): poor, Setting(2): good}),
        Trial("b", "global", 4, {Setting(1): poor, Setting(2): poor}),
    ]
    text = describe_trials(trials)
    assert "1 of 2 prompts reach the target" in text
    assert "| alpha 2 (best) | 50 %    | 3 %" in text
    assert "| a      | alpha 2       | 90 %" in text


def test_sections_are_replaced_and_others_stay(tmp_path):
    card = tmp_path / "card.md"
    card.write_text("# Title\n\ntext\n")
    set_section(card, "Figures", "old")
    set_section(card, "Notes", "kept")
    set_section(card, "Figures", markdown_table(["a", "b"], [["1", "long cell"]]))
    text = card.read_text()
    assert text.startswith("# Title\n\ntext\n\n## Notes\n\nkept\n\n## Figures\n")
    assert "old" not in text
    assert text.endswith("| a   | b         |\n| --- | --------- |\n| 1   | long cell |\n")


def test_equal_sets_have_no_distance_and_equal_rates():
    probe = Probe(ProbeConfig(32, (8, 8), 8)).eval()
    draw = torch.Generator().manual_seed(0)
    near, far = (torch.randn(40, 3, 32, 32, generator=draw) * scale for scale in (0.3, 1.0))
    a, b = (look_at(probe, iter(torch.split(x, 16))) for x in (near, far))
    figures = compare_generation(b, a, a)
    assert figures.renders.value < 1e-3 < figures.samples.value
    for attribute in RATES:
        rates = [figures.rates[attribute, option] for option in RATES[attribute]]
        assert [sum(side) for side in zip(*rates, strict=True)] == pytest.approx([1, 1])


def test_samples_depend_on_the_seed_and_are_as_many_as_asked():
    first, again, other = (
        torch.cat([*sample_pictures(random_generator(), 5, seed, batch=2)]) for seed in (0, 0, 1)
    )
    assert first.shape == (5, 3, 32, 32)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_photographs_are_aligned_faces():
    crops = photographed_crops(2, seed=4, size=64)
    assert crops.shape[1:] == (3, 64, 64)
    assert 1 <= len(crops) <= 2
    assert crops.abs().max() <= 1
    assert crops.std(dim=(1, 2, 3)).min() > 0.1


def tiny_clip(folder):
    text = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": 12,
    }
    vision = text | {"image_size": 32, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    folder.mkdir()
    model.config.to_json_file(str(folder / "config.json"))
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")


def test_stage_writes_tables_into_the_cards(tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    torch.manual_seed(0)
    save_probe(Probe(ProbeConfig(32, (8, 8), 8)), models / "probes.safetensors")
    save_safetensors(ArcFace(ArcFaceConfig(8, TINY)), models / "identity.safetensors")
    save_safetensors(random_generator(), models / "generator.safetensors")
    save_safetensors(E4eEncoder(E4eConfig(8, 16, 32, TINY)), models / "encoder.safetensors")
    tiny_clip(models / "clip")
    for name in ("generator", "encoder"):
        (models / f"{name}.md").write_text(f"# {name}\n\ntext\n")
    wishes = tuple(wish for wish in WISHES if wish.attribute in ("expression", "age", "hat"))
    config = JudgeConfig(samples=8, scenes=1, sources=2, wishes=wishes, edit=EDIT)
    plan = Plan(
        runs=tmp_path / "runs",
        models=models,
        device=torch.device("cpu"),
        size=32,
        num=16,
        held_out=8,
        shard=8,
        judge=config,
    )
    STAGES["data"](plan, Deadline(), print)
    lines = list[str]()
    STAGES["judge"](plan, Deadline(), lines.append)
    assert "Fréchet distance" in (models / "generator.md").read_text()
    assert "attributes kept, mean" in (models / "encoder.md").read_text()
    card = (models / "editing.md").read_text()
    assert (models / "editing.webp").exists()
    for method in ("global", "mapper", "optimize"):
        assert f"### {method}" in card
    assert any("attributes kept, mean" in line for line in lines)
    assert (plan.runs / "judge" / "samples.png").exists()
