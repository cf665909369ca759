import math
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from styleclip_ops.errors import ConfigError, ShapeError
from styleclip_ops.generator import Generator, GeneratorConfig
from styleclip_ops.relevance import (
    ChannelSums,
    SlopeCheck,
    channel_clip_directions,
    check_slopes,
    prompt_relevance,
    sum_channel_directions,
)

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
    fast = channel_clip_directions(precise, clip, *double, step=1e-4, mode="fast")
    assert torch.cosine_similarity(fast, exact).min() > 0.999


def test_fast_renders_what_slopes_do_not_predict(
    generator: Generator, clip: PixelEmbedder, s: Tensor, std: Tensor, channels: Tensor
) -> None:
    exact = channel_clip_directions(generator, clip, s, std, channels, step=2.0)
    fast = channel_clip_directions(generator, clip, s, std, channels, step=2.0, mode="fast")
    checked = [
        sum_channel_directions(generator, clip, code[None], std, channels, step=2.0, mode="fast")
        for code in s[:2]
    ]
    check = check_slopes(checked)
    curved = check.curved
    assert torch.equal(curved, check.agreement < 0.9)
    assert 0.02 < curved.float().mean() < 0.9
    torch.testing.assert_close(fast[curved], exact[curved], atol=1e-4, rtol=0)
    cosine = torch.cosine_similarity(fast, exact).mean()
    assert 0.97 < cosine < 1
    assert check.fidelity == pytest.approx(cosine.item(), abs=0.02)


def test_parts_of_the_images_add_up_to_fast(
    generator: Generator, clip: PixelEmbedder, s: Tensor, std: Tensor, channels: Tensor
) -> None:
    some = channels[::3]
    measure = partial(sum_channel_directions, generator, clip, mode="fast")
    checked = [measure(code[None], std, some) for code in s[:2]]
    check = check_slopes(checked)
    others = [measure(part, std, some, check=check) for part in (s[2:3], s[3:])]
    assert [sums.agreement for sums in others] == [None, None]
    total = torch.stack([sums.total for sums in (*checked, *others)]).sum(dim=0)
    whole = channel_clip_directions(generator, clip, s, std, some, mode="fast")
    torch.testing.assert_close(normalize(total, dim=1), whole, atol=1e-5, rtol=0)


def test_slopes_are_taken_in_the_space_that_directions_have_in_common() -> None:
    random = torch.Generator().manual_seed(2)
    plane = torch.linalg.qr(torch.randn(12, 3, generator=random)).Q.t()
    images = [normalize(torch.randn(40, 3, generator=random) @ plane, dim=1) for _ in range(2)]
    images[1][5] = 0
    check = check_slopes([ChannelSums(image, torch.ones(40)) for image in images])
    assert check.basis.shape == (3, 12)
    torch.testing.assert_close(check.basis @ plane.t() @ plane, check.basis, atol=1e-5, rtol=0)
    assert check.kept == pytest.approx(1, abs=1e-5)
    # Of images that have nothing in common, all dimensions are taken, and the loss is told.
    strangers = [torch.eye(12)[:3], torch.eye(12)[6:9]]
    check = check_slopes([ChannelSums(image, torch.ones(3)) for image in strangers])
    assert (len(check.basis), check.kept) == (3, 0)
    with pytest.raises(ConfigError, match="got 1 checked images, expected 2"):
        check_slopes([ChannelSums(images[0], torch.ones(40)), ChannelSums(images[1])])


def test_slopes_above_256_px_keep_what_the_last_layers_add() -> None:
    torch.manual_seed(2)
    large = Generator(GeneratorConfig((4,) * 8, z_dim=8, w_dim=8)).requires_grad_(False)
    s = large.w_plus_to_s(torch.randn(1, large.num_ws, 8)).repeat(3, 1)
    seen: list[Tensor] = []

    class Recorder(PixelEmbedder):
        def embed_images(self, images: Tensor) -> Tensor:
            seen.append(images.detach())
            return super().embed_images(images)

    channels = large.layout.editable_channels[[0, 20, -1]]
    std = torch.full((large.layout.size,), 0.01)
    fast = channel_clip_directions(large, Recorder(), s, std, channels, mode="fast")
    assert [images.shape[-1] for images in seen].count(256) == len(s)
    small = torch.nn.functional.adaptive_avg_pool2d(large.synthesize(s[:1]), 256)
    (first, *_) = [images for images in seen if images.shape[-1] == 256]
    torch.testing.assert_close(first[:1], small, atol=1e-4, rtol=1e-4)
    exact = channel_clip_directions(large, PixelEmbedder(), s, std, channels)
    # The last channel lies above 256 px: its slope is nothing, so it is rendered.
    assert torch.cosine_similarity(fast, exact).min() > 0.97


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
    for step in (-1, math.inf):
        with pytest.raises(ConfigError, match=f"step {step}"):
            channel_clip_directions(generator, clip, s, std, step=step)
    with pytest.raises(ConfigError, match="expected that of all sample images"):
        sum_channel_directions(generator, clip, s, std, mode="published")
    check = SlopeCheck(torch.ones(3), torch.eye(12), 1.0)
    with pytest.raises(ShapeError, match="agreement"):
        sum_channel_directions(generator, clip, s, std, mode="fast", check=check)


def test_a_prompt_alone_finds_the_channels_that_an_asset_finds(
    generator: Generator, clip: PixelEmbedder, std: Tensor, channels: Tensor
) -> None:
    random = torch.Generator().manual_seed(5)
    w_plus = torch.randn(16, generator.num_ws, generator.config.w_dim, generator=random)
    s = generator.w_plus_to_s(w_plus)
    text = normalize(torch.randn(12, generator=random), dim=0)
    asset = channel_clip_directions(generator, clip, s, std, channels, step=1e-2) @ text
    with torch.no_grad():
        alone = prompt_relevance(generator, clip, s, std, text, channels)
    assert torch.corrcoef(torch.stack([asset, alone]))[0, 1] > 0.6


def test_a_prompt_alone_leaves_still_channels_at_zero(
    generator: Generator, clip: PixelEmbedder, s: Tensor
) -> None:
    text = torch.ones(12) / 12**0.5
    assert (prompt_relevance(generator, clip, s, torch.zeros(len(s[0])), text) == 0).all()
    with pytest.raises(ShapeError, match="text_direction"):
        prompt_relevance(generator, clip, s, torch.ones(len(s[0])), text[:5])
    with pytest.raises(ConfigError, match="no sample image"):
        prompt_relevance(generator, clip, s[:0], torch.ones(len(s[0])), text)
    with pytest.raises(ConfigError, match=r"torch.bool, expected int64.*nonzero"):
        prompt_relevance(generator, clip, s, s.std(dim=0), text, generator.layout.editable)
    with pytest.raises(ConfigError, match="channel_std: got NaN"):
        prompt_relevance(generator, clip, s, s.std(dim=0) * torch.nan, text)


@pytest.mark.parametrize("mode", ["exact", "published", "fast", "checked"])
def test_the_share_that_is_done_is_told_many_times_an_image(
    generator, clip, s, std, channels, mode
):
    check = None
    measure = partial(sum_channel_directions, generator, clip, channel_std=std, channels=channels)
    if mode == "checked":
        check = check_slopes([measure(s=code[None], mode="fast") for code in s[:2]])
    shares = list[float]()
    kind = "fast" if mode == "checked" else mode
    options = {"mode": kind, "channel_mean": s.mean(dim=0), "batch_size": 4, "check": check}
    silent = measure(s=s[:2], **options)
    told = measure(s=s[:2], on_progress=shares.append, **options)
    assert torch.equal(silent.total, told.total)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    # Slopes of few axes are the least that there is to tell of.
    assert sum(share <= 0.5 for share in shares) >= 4
    assert shares[0] < 0.2
