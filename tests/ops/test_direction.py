import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from styleclip_ops.direction import (
    apply_direction,
    prompt_embedding,
    relevance,
    style_direction,
    text_direction,
)
from styleclip_ops.errors import ConfigError, NoChannelError, ShapeError
from styleclip_ops.prompt_templates import IMAGENET_TEMPLATES
from styleclip_ops.stylespace import StyleSpaceLayout

from conftest import PixelEmbedder

LAYOUT = StyleSpaceLayout.from_channels([8, 6, 4])
CHANNELS = len(LAYOUT.editable_channels)
RANDOM = torch.Generator().manual_seed(0)
DIRECTIONS = torch.nn.functional.normalize(torch.randn(CHANNELS, 10, generator=RANDOM), dim=1)
TEXT = torch.nn.functional.normalize(torch.randn(10, generator=RANDOM), dim=0)
STD = torch.rand(LAYOUT.size, generator=RANDOM) + 0.1
LARGEST = relevance(DIRECTIONS, TEXT).abs().max().item()


def direction(**options: float) -> torch.Tensor:
    return style_direction(DIRECTIONS, TEXT, STD, LAYOUT, **options)  # type: ignore[arg-type]


@given(st.floats(-3, 3), st.integers(1, 4))
def test_alpha_zero_is_the_identity_and_alpha_is_linear(alpha: float, batch: int) -> None:
    s = torch.randn(batch, LAYOUT.size)
    delta = direction(num_channels=5)
    assert torch.equal(apply_direction(s, delta, 0.0), s)
    torch.testing.assert_close(apply_direction(s, delta, alpha), s + alpha * delta)


@given(st.floats(0, LARGEST), st.floats(0, LARGEST))
def test_raising_beta_never_adds_a_channel(a: float, b: float) -> None:
    low, high = sorted((a, b))
    loose, strict = direction(beta=low) != 0, direction(beta=high) != 0
    assert (strict & ~loose).sum() == 0


@given(st.integers(1, CHANNELS))
def test_a_channel_budget_is_met_by_the_most_relevant(budget: int) -> None:
    chosen = direction(num_channels=budget)[LAYOUT.editable_channels] != 0
    scores = relevance(DIRECTIONS, TEXT).abs()
    assert int(chosen.sum()) == budget
    if budget < CHANNELS:
        assert scores[chosen].min() >= scores[~chosen].max()


def test_toRGB_is_never_edited_and_alpha_counts_deviations() -> None:
    delta = direction(beta=0.0)
    assert (delta[~LAYOUT.editable] == 0).all()
    steps = (delta / STD)[LAYOUT.editable]
    assert steps.abs().max() == pytest.approx(1.0)
    scores = relevance(DIRECTIONS, TEXT)
    torch.testing.assert_close(steps, scores / scores.abs().max())


def test_strength_per_image() -> None:
    s, delta = torch.randn(3, LAYOUT.size), direction(num_channels=5)
    got = apply_direction(s, delta, torch.tensor([0.0, 1.0, -2.0]))
    torch.testing.assert_close(got, torch.stack([s[0], s[1] + delta, s[2] - 2 * delta]))
    with pytest.raises(ShapeError, match="alpha"):
        apply_direction(s, delta, torch.zeros(2))
    with pytest.raises(ConfigError, match="alpha: got nan"):
        apply_direction(s, delta, float("nan"))


def test_too_high_a_beta_says_which_one_works() -> None:
    with pytest.raises(NoChannelError, match=r"no style channel passes beta=0.99.*choose") as error:
        direction(beta=0.99)
    proposal = float(str(error.value).split("choose beta <= ")[1].split()[0])
    assert (direction(beta=proposal) != 0).any()
    assert proposal == pytest.approx(LARGEST, rel=1e-3)


@pytest.mark.parametrize("options", [{"beta": 0.0}, {"num_channels": 5}])
def test_directions_without_effect_are_refused(options: dict[str, float]) -> None:
    nothing = torch.zeros(CHANNELS, 10)
    with pytest.raises(NoChannelError, match="every relevance is 0"):
        style_direction(nothing, TEXT, STD, LAYOUT, **options)  # type: ignore[arg-type]


def test_the_proposed_beta_works_for_tiny_relevances() -> None:
    tiny = DIRECTIONS * 1e-6
    with pytest.raises(NoChannelError) as error:
        style_direction(tiny, TEXT, STD, LAYOUT)
    proposal = float(str(error.value).split("choose beta <= ")[1].split()[0])
    assert proposal > 0
    assert (style_direction(tiny, TEXT, STD, LAYOUT, beta=proposal) != 0).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.1, "num_channels": 3}, "expected one of them"),
        ({"beta": float("nan")}, "beta: got nan"),
        ({"beta": -0.1}, "expected 0 or more"),
        ({"num_channels": 0}, f"integer from 1 to {CHANNELS}"),
        ({"num_channels": 2.5}, "num_channels: got 2.5"),
        ({"num_channels": CHANNELS + 1}, f"integer from 1 to {CHANNELS}"),
    ],
)
def test_bad_thresholds(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        direction(**options)


def test_incomplete_assets_are_refused() -> None:
    damaged = DIRECTIONS.clone()
    damaged[3] = torch.nan
    with pytest.raises(ConfigError, match="relevance: got NaN"):
        style_direction(damaged, TEXT, STD, LAYOUT)
    with pytest.raises(ConfigError, match="channel_std: got NaN"):
        style_direction(DIRECTIONS, TEXT, STD * torch.nan, LAYOUT)


def test_an_asset_of_the_first_layers_only() -> None:
    rows = LAYOUT.layers[0].channels + LAYOUT.layers[2].channels
    delta = style_direction(DIRECTIONS[:rows], TEXT, STD, LAYOUT, beta=0.0)
    assert (delta[LAYOUT.layers[3].start :] == 0).all()
    assert (delta[LAYOUT.layers[2].span] != 0).all()
    with pytest.raises(ShapeError, match=r"got 7 rows, expected 32 .*\[8, 16, 22, 28\]"):
        style_direction(DIRECTIONS[:7], TEXT, STD, LAYOUT)


def test_text_direction_averages_templates() -> None:
    clip = PixelEmbedder()
    got = text_direction(clip, "a face", "an old face")
    rows = [
        torch.nn.functional.normalize(
            clip.embed_texts([t.replace("{}", prompt) for t in IMAGENET_TEMPLATES]).mean(0), dim=0
        )
        for prompt in ("a face", "an old face")
    ]
    torch.testing.assert_close(got, torch.nn.functional.normalize(rows[1] - rows[0], dim=0))
    assert len(IMAGENET_TEMPLATES) == len(set(IMAGENET_TEMPLATES)) == 79


def test_braces_in_a_prompt_are_text() -> None:
    clip = PixelEmbedder()
    assert prompt_embedding(clip, "{0.__class__}", ["a {}."]).isfinite().all()


def test_prompts_without_a_direction_are_refused() -> None:
    clip = PixelEmbedder()
    with pytest.raises(ConfigError, match="same embedding for 'a face' and 'a face'"):
        text_direction(clip, "a face", "a face")
    with pytest.raises(ConfigError, match="templates: got none"):
        text_direction(clip, "a face", "an old face", templates=())
    with pytest.raises(ConfigError, match="expected a place for the prompt"):
        text_direction(clip, "a face", "an old face", templates=["a photo"])
