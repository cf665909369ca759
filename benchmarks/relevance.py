"""Channel relevance against the published loop: two whole renders a channel and image.

Timed on a 256 px generator of published widths, on some channels of every layer, and taken together
for 100 images and all channels: `exact` renders them in batches from the perturbed layer on; `fast`
does so in two images, and in the others for the channels that are not linear there, besides one
backward pass for each principal direction of CLIP's 512 dimensions. Which shares of channels and of
dimensions these are, and how near `fast` comes, is measured on the demo's trained networks
(docs/speed.md has what else was tried). For one prompt without any of that, two backward passes an
image do.
"""

import statistics
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import plain_generator
from benchmarks.networks import NEUTRAL, PROMPTS, demo_networks
from benchmarks.paired import Ratio, median_of, memory_as_it_comes, seconds_of
from styleclip_ops.direction import text_direction
from styleclip_ops.generator import Generator, GeneratorConfig
from styleclip_ops.relevance import (
    CHECK_IMAGES,
    channel_clip_directions,
    check_slopes,
    prompt_relevance,
    sum_channel_directions,
)
from styleclip_ops.style_statistics import sample_style_codes, style_statistics

_IMAGES = 100
_DIMENSIONS = 512
# That a prompt without any asset is measured on.
_PROMPT_IMAGES = 16
_CHANNELS = 6
# Channels of a layer that go through it together.
_BATCH = 8


class SmallClip:
    """A convolutional embedder: CLIP's share of the published loop is a tenth, and not compared."""

    def __init__(self, dimensions: int, device: str) -> None:
        self.weight = (torch.randn(dimensions, 3, 16, 16) / 28).to(device)

    def embed_images(self, images: Tensor) -> Tensor:
        """Embed [N, 3, R, R] as unit [N, dimensions]."""
        features = F.conv2d(images, self.weight, stride=16).tanh()
        return F.normalize(features.mean(dim=(2, 3)), dim=1)


def run(device: str = "cpu") -> Iterator[Ratio]:
    """Compare speed at 256 px, then fidelity on the demo's networks."""
    share, main, *fidelity = _fidelity(device, images=8, every=6)
    exact, slopes, prompt = _speed(device)
    yield exact
    # In units of the published loop of one image.
    check = CHECK_IMAGES / _IMAGES
    rendered, passes = check + (1 - check) * share, check + (1 - check) * main
    cost = rendered / exact.median + passes / slopes.median
    name = "relevance 256 px, fast: 100 images, from the parts"
    yield Ratio(name, 1 / cost, 1 / cost, 1 / cost, 0.0)
    yield slopes
    yield prompt
    yield Ratio("relevance, fast: share of the channels that are rendered", share, share, share, 0)
    yield Ratio("relevance, fast: share of CLIP's dimensions that are taken", main, main, main, 0)
    yield from fidelity


def _speed(device: str) -> tuple[Ratio, Ratio, Ratio]:
    """How many times faster than the published loop renders, slopes, and a prompt's slopes are.

    The published time of one image is that of some channels, spread over the layers, times their
    number; a graph of slopes is walked for two dimensions, and the walks are as many as CLIP has.
    """
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig.from_channel_multiplier(256)).requires_grad_(False)
    generator.to(device)
    s = generator.w_plus_to_s(torch.randn(1, generator.num_ws, 512).to(device))
    std = torch.full((generator.layout.size,), 0.2).to(device)
    layout = generator.layout
    editable = layout.editable_channels
    channels = editable[:: len(editable) // _CHANNELS][:_CHANNELS]
    clip = SmallClip(64, device)

    @torch.no_grad()
    def published() -> Tensor:
        rows = []
        for channel in channels.tolist():
            features = []
            for step in (-5, 5):
                edited = s.clone()
                edited[:, channel] += step * std[channel]
                features.append(clip.embed_images(plain_generator.synthesize(generator, edited)))
            rows.append(F.normalize(features[1] - features[0], dim=1))
        return torch.cat(rows)

    def exact() -> Tensor:
        return channel_clip_directions(generator, clip, s, std, channels)

    # Whole batches, as a sweep over all channels has them, and layers by their number of channels.
    counts, batches = list[int](), list[Tensor]()
    for layer in layout.layers:
        own = editable[(editable >= layer.start) & (editable < layer.stop)]
        if len(own):
            counts.append(len(own))
            batches.append(own[:_BATCH])

    def whole() -> float:
        measure = partial(channel_clip_directions, generator, clip, s, std, batch_size=2 * _BATCH)
        return sum(
            seconds_of(partial(measure, batch)) * count / len(batch)
            for count, batch in zip(counts, batches, strict=True)
        )

    def slopes() -> None:
        code = s.clone().requires_grad_()
        embedding = clip.embed_images(generator.synthesize(code))[0]
        for value in embedding[:2]:
            torch.autograd.grad(value, code, retain_graph=True)

    def prompt() -> Tensor:
        return prompt_relevance(generator, clip, s, std, F.normalize(s.new_ones(64), dim=0))

    agreement = F.cosine_similarity(published(), exact()).min()
    if agreement < 0.9999:
        raise RuntimeError(f"the two relevances agree to cosine {agreement:.5f} only")
    times, walks = len(editable) / _CHANNELS, _DIMENSIONS / 2
    pairs = list[tuple[float, float, float, float]]()
    for _ in range(3):
        mine = whole(), seconds_of(slopes), seconds_of(prompt)
        with memory_as_it_comes():
            pairs.append((seconds_of(published) * times, *mine))
        slopes()
    name = "relevance 256 px, exact: against two whole renders"
    rendered = median_of(name, [theirs / ours for theirs, ours, _, _ in pairs])
    name = "relevance 256 px: slopes of all channels, one image"
    sloped = median_of(name, [theirs / ours / walks for theirs, _, ours, _ in pairs])
    name = f"relevance 256 px, one prompt: {_PROMPT_IMAGES} images against {_IMAGES} measured"
    seconds = _PROMPT_IMAGES * statistics.median(ours for *_, ours in pairs)
    more = _IMAGES / _PROMPT_IMAGES
    alone = median_of(name, [theirs / ours * more for theirs, _, _, ours in pairs], seconds)
    return rendered, sloped, alone


def _fidelity(device: str, images: int, every: int) -> tuple[float, float, Ratio, Ratio]:
    """Shares of channels and of dimensions, and cosines to exact: of channels and directions."""
    networks = demo_networks(device)
    generator, clip = networks.generator, networks.clip
    std = style_statistics(generator, 1000).std
    s = torch.cat([*sample_style_codes(generator, images)])
    channels = generator.layout.editable_channels[::every]
    exact = channel_clip_directions(generator, clip, s, std, channels)
    fast = channel_clip_directions(generator, clip, s, std, channels, mode="fast")
    checked = [
        sum_channel_directions(generator, clip, code[None], std, channels, mode="fast")
        for code in s[:CHECK_IMAGES]
    ]
    check = check_slopes(checked)
    cosines = F.cosine_similarity(fast, exact).tolist()
    directions = []
    for prompt in PROMPTS:
        text = text_direction(clip, NEUTRAL, prompt)
        ours, theirs = ((d @ text) * std[channels] for d in (fast, exact))
        directions.append(float(F.cosine_similarity(ours, theirs, dim=0)))
    return (
        float(check.curved.float().mean()),
        len(check.basis) / clip.embedding_dim,
        _cosines("relevance, fast: cosine to exact, channels (mean)", cosines),
        _cosines("relevance, fast: cosine to exact, directions of 7 prompts (mean)", directions),
    )


def _cosines(name: str, values: list[float]) -> Ratio:
    return Ratio(name, statistics.mean(values), min(values), max(values), 0.0)
