from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from styleclip_ops.errors import ConfigError, ShapeError
from styleclip_ops.generator import Generator
from styleclip_ops.relevance import channel_clip_directions

from conftest import PixelEmbedder


def perturbed_one_by_one(
    generator: Generator,
    clip: PixelEmbedder,
    s: Tensor,
    std: Tensor,
    channels: Tensor,
    step: float,
    mean: Tensor | None = None,
) -> Tensor:
    """Section 6.2 in the plainest form: two whole renders a channel and image."""
    rows = []
    for channel in channels.tolist():
        total = torch.zeros(12)
        for code in s:
            features = []
            for sign in (-1, 1):
                edited = code.clone()
                center = code[channel] if mean is None else mean[channel]
                edited[channel] = center + sign * step * std[channel]
                features.append(clip.embed_images(generator.synthesize(edited[None]))[0])
            total += normalize(features[1] - features[0], dim=0)
        rows.append(normalize(total, dim=0))
    return torch.stack(rows)


@pytest.fixture
def std(s: Tensor) -> Tensor:
    return s.std(dim=0)


@pytest.fixture
def channels(generator: Generator) -> Tensor:
    """Every fifth editable channel: some of each layer."""
    return generator.layout.editable_channels[::5]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_exact_equals_the_plain_loop(
    generator: Generator,
    clip: PixelEmbedder,
    s: Tensor,
    std: Tensor,
    channels: Tensor,
    batch_size: int,
) -> None:
    want = perturbed_one_by_one(generator, clip, s[:2], std, channels, 2.0)
    got = channel_clip_directions(
        generator, clip, s[:2], std, channels, step=2.0, batch_size=batch_size
    )
    assert torch.cosine_similarity(got, want).min() > 0.9999
    torch.testing.assert_close(got.norm(dim=1), torch.ones(len(got)))


def test_exact_about_a_given_mean(
    generator: Generator, clip: PixelEmbedder, s: Tensor, std: Tensor, channels: Tensor
) -> None:
    mean = s.mean(dim=0)
    want = perturbed_one_by_one(generator, clip, s[:2], std, channels, 5.0, mean)
    got = channel_clip_directions(generator, clip, s[:2], std, channels, channel_mean=mean)
    assert torch.cosine_similarity(got, want).min() > 0.9999


def test_some_channels_in_any_order(
    generator: Generator, clip: PixelEmbedder, s: Tensor, std: Tensor
) -> None:
    everything = channel_clip_directions(generator, clip, s[:2], std)
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(1))[:20]
    channels = generator.layout.editable_channels[order]
    got = channel_clip_directions(generator, clip, s[:2], std, channels)
    torch.testing.assert_close(got, everything[order], atol=1e-4, rtol=0)


def test_fast_is_the_limit_of_small_steps(
    generator: Generator, clip: PixelEmbedder, s: Tensor, std: Tensor
) -> None:
    double = [t.double() for t in (s, std)]
    precise = deepcopy(generator).double()
    exact = channel_clip_directions(precise, clip, *double, step=1e-4)
    fast = channel_clip_directions(precise, clip, *double, mode="fast")
    assert torch.cosine_similarity(fast, exact).min() > 0.999


def test_fast_works_where_gradients_are_off(
    generator: Generator, clip: PixelEmbedder, s: Tensor, std: Tensor, channels: Tensor
) -> None:
    want = channel_clip_directions(generator, clip, s[:1], std, channels, mode="fast")
    with torch.no_grad():
        got = channel_clip_directions(generator, clip, s[:1], std, channels, mode="fast")
    assert torch.equal(got, want)


def test_published_leaves_visited_channels_at_their_mean(
    generator: Generator, clip: PixelEmbedder, s: Tensor, std: Tensor
) -> None:
    channels = generator.layout.editable_channels[:3]
    got = channel_clip_directions(generator, clip, s, std, channels, mode="published")
    first_alone = channel_clip_directions(generator, clip, s, std, channels[:1], mode="published")
    last_alone = channel_clip_directions(generator, clip, s, std, channels[2:], mode="published")
    torch.testing.assert_close(got[:1], first_alone)
    assert not torch.allclose(got[2:], last_alone, atol=1e-4)


def test_a_channel_without_effect_is_zero(
    generator: Generator, clip: PixelEmbedder, s: Tensor
) -> None:
    got = channel_clip_directions(generator, clip, s, torch.zeros(generator.layout.size))
    assert (got == 0).all()


def test_bad_input(generator: Generator, clip: PixelEmbedder, s: Tensor, std: Tensor) -> None:
    with pytest.raises(ShapeError, match=r"s\[None\]"):
        channel_clip_directions(generator, clip, s[0], std)
    with pytest.raises(ConfigError, match="no sample image"):
        channel_clip_directions(generator, clip, s[:0], std)
    with pytest.raises(ConfigError, match="channels: got"):
        channel_clip_directions(generator, clip, s, std, torch.tensor([10_000]))
    with pytest.raises(ConfigError, match=r"torch.bool, expected int64.*nonzero"):
        channel_clip_directions(generator, clip, s, std, generator.layout.editable)
    with pytest.raises(ConfigError, match="channel_std: got NaN"):
        channel_clip_directions(generator, clip, s, std * torch.nan)
    with pytest.raises(ConfigError, match="mode: got 'slow'"):
        channel_clip_directions(generator, clip, s, std, mode="slow")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="step -1"):
        channel_clip_directions(generator, clip, s, std, step=-1)
