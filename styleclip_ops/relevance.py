"""The CLIP direction of every style channel, once per generator (StyleCLIP, section 6.2)."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from styleclip_ops.clip import ImageEmbedder
from styleclip_ops.errors import ConfigError, check_shape
from styleclip_ops.generator import Generator, SynthesisState
from styleclip_ops.stylespace import StyleSpaceLayout

RelevanceMode = Literal["exact", "fast", "published"]
# Is told which share of some work is done, 0 to 1.
Tell = Callable[[float], None]

PUBLISHED_STEP = 5.0

# Of the mode fast: images whose perturbations are all rendered, and how well the slope of a channel
# has to tell what they do there (cosine). Where it does not, the channel is rendered in all images.
CHECK_IMAGES = 2
_LINEAR = 0.9
# What the principal directions of one of these images have to hold of those of another (mean length
# of unit directions). Slopes are taken along so many of them only.
_KEPT = 0.99
# Slopes are taken of the image at this size at most: CLIP reads 224 px.
_SLOPE_RESOLUTION = 256
# A graph of backward passes holds about this many times the memory of a forward pass.
_GRAPH_SIZE = 8
# About the share of the time of an image that is rendered wholly; the rest is for its slopes.
_RENDERING = 0.9


class ChannelSums(NamedTuple):
    """Directions of some sample images, added up.

    Attributes:
        total: [C, E] sum of the unit directions of every image.
        agreement: [C] in the mode fast, of images that were rendered wholly: mean cosine of what
            the slopes predict and what came out.
    """

    total: Tensor
    agreement: Tensor | None = None


class SlopeCheck(NamedTuple):
    """What rendered images tell of slopes.

    Attributes:
        agreement: [C] mean cosine of what slopes predict and what came out.
        basis: [K, E] orthonormal; CLIP's directions lie in this space, nearly.
        kept: Mean length in it of unit directions of images that it was not made of.
    """

    agreement: Tensor
    basis: Tensor
    kept: float

    @property
    def curved(self) -> Tensor:
        """Which channels [C] are rendered in every image."""
        return self.agreement < _LINEAR

    @property
    def fidelity(self) -> float:
        """Estimated mean cosine to the directions of the mode exact, of one image.

        Means over images are nearer.
        """
        return float(torch.where(self.curved, 1.0, self.agreement * self.kept).mean())


def check_slopes(checked: Sequence[ChannelSums]) -> SlopeCheck:
    """Conclude from images that were rendered wholly how others are to be measured.

    Args:
        checked: Sums of one image each, with agreement; two or more, since one tells how much of
            another its principal directions hold.

    Raises:
        ConfigError: There are fewer, or one has no agreement.
    """
    agreements = [sums.agreement for sums in checked if sums.agreement is not None]
    if len(checked) < 2 or len(agreements) < len(checked):
        raise ConfigError(f"checked: got {len(agreements)} checked images, expected 2 or more")
    # Not every accelerator has double precision.
    directions = [sums.total.cpu().double() for sums in checked]
    kept = []
    for index, own in enumerate(directions):
        main = torch.linalg.svd(own, full_matrices=False).Vh
        for other in (*directions[:index], *directions[index + 1 :]):
            moving = other[other.norm(dim=1) > 0]
            kept.append((moving @ main.t()).square().cumsum(dim=1).sqrt().mean(dim=0))
    held = torch.stack(kept).mean(dim=0).nan_to_num(1.0)
    size = min(int((held < _KEPT).sum()) + 1, len(held))
    basis = torch.linalg.svd(torch.cat(directions), full_matrices=False).Vh[:size]
    agreement = torch.stack(agreements).mean(dim=0)
    return SlopeCheck(agreement, basis.to(agreement), float(held[size - 1]))


def channel_clip_directions(
    generator: Generator,
    clip: ImageEmbedder,
    s: Tensor,
    channel_std: Tensor,
    channels: Tensor | None = None,
    step: float = PUBLISHED_STEP,
    mode: RelevanceMode = "exact",
    *,
    channel_mean: Tensor | None = None,
    batch_size: int = 16,
) -> Tensor:
    """Measure how CLIP's embedding moves when one style channel moves (section 6.2, equation 5).

    For each image and channel: the difference of the embeddings at +step and -step standard
    deviations, normalised; the mean over images, normalised.

    Args:
        generator: The generator.
        clip: The image embedder.
        s: [N, layout.size] style codes of the sample images.
        channel_std: [layout.size].
        channels: [C] int64 entries of the flat style code; all editable ones where None.
        step: Size of the perturbation in standard deviations.
        mode: `exact` renders both perturbations, starting at the perturbed layer. `fast` does so
            for all channels in the first two images, and then for those only whose slopes told
            something else there; of the others it takes the slopes, by one backward pass an
            image and principal direction of CLIP's embeddings. `published` renders as the release
            does, on 8-bit images, and leaves every channel at its mean once it was visited.
        channel_mean: [layout.size] centre of the perturbation. Where None, `exact` and `fast`
            perturb each image's own value (as the paper writes it) and `published` the mean of
            `s`; the release uses the mean over many samples.
        batch_size: Images to render at a time. Memory grows with it and with nothing else.

    Returns:
        [C, E], unit norm; zero for a channel that moves no image.

    Raises:
        ShapeError: A shape does not fit the generator.
        ConfigError: A channel is out of range, or a parameter is outside its range.
    """
    if mode == "published" and channel_mean is None and s.ndim == 2 and len(s):
        channel_mean = s.mean(dim=0)
    add = partial(
        sum_channel_directions,
        *(generator, clip),
        channel_std=channel_std,
        channels=channels,
        step=step,
        mode=mode,
        channel_mean=channel_mean,
        batch_size=batch_size,
    )
    if mode != "fast" or len(s) <= CHECK_IMAGES:
        return F.normalize(add(s=s).total, dim=1)
    checked = [add(s=code[None]) for code in s[:CHECK_IMAGES]]
    others = add(s=s[CHECK_IMAGES:], check=check_slopes(checked))
    return F.normalize(_summed(sums.total for sums in (*checked, others)), dim=1)


def sum_channel_directions(
    generator: Generator,
    clip: ImageEmbedder,
    s: Tensor,
    channel_std: Tensor,
    channels: Tensor | None = None,
    step: float = PUBLISHED_STEP,
    mode: RelevanceMode = "exact",
    *,
    channel_mean: Tensor | None = None,
    batch_size: int = 16,
    check: SlopeCheck | None = None,
    on_progress: Tell | None = None,
) -> ChannelSums:
    """Measure a part of the sample images: the sums of parts are `channel_clip_directions`.

    Args:
        generator: The generator.
        clip: The image embedder.
        s: [N, layout.size] style codes of the part.
        channel_std: [layout.size].
        channels: [C] int64 entries of the flat style code; all editable ones where None.
        step: Size of the perturbation in standard deviations.
        mode: As there.
        channel_mean: [layout.size]; `published` needs that of all sample images.
        batch_size: Images to render at a time.
        check: In the mode fast, what images tell that were measured without it. Where None, all
            images of the part are rendered wholly.
        on_progress: Told which share of the part is done, 0 to 1, many times an image.

    Returns:
        The sums; their agreement is None except for images of the mode fast that were rendered.

    Raises:
        ShapeError: A shape does not fit the generator.
        ConfigError: A channel is out of range, or a parameter is outside its range.
    """
    layout = generator.layout
    _check_sample(layout, s, channel_std)
    if not 0 < step < math.inf or batch_size < 1:
        raise ConfigError(f"step {step}, batch_size {batch_size}: expected positive values")
    channels = _checked_channels(layout, channels)
    if channel_mean is not None:
        check_shape("channel_mean", channel_mean, (layout.size,))
        channel_mean = channel_mean.to(s)
    sweep = _Sweep(generator, clip, channels.cpu(), channel_std.to(s) * step, channel_mean)
    tell = on_progress or _tell_nobody
    images = [(code, _span(tell, i / len(s), (i + 1) / len(s))) for i, code in enumerate(s)]
    if mode == "exact":
        return ChannelSums(_summed(sweep.exact(code, batch_size, told) for code, told in images))
    if mode == "published":
        if channel_mean is None:
            raise ConfigError("channel_mean: got none, expected that of all sample images")
        return ChannelSums(_summed(sweep.published(*image) for image in images))
    if mode != "fast":
        raise ConfigError(f"mode: got {mode!r}, expected exact, fast or published")
    if check is not None:
        check_shape("agreement", check.agreement, (len(channels),))
        return ChannelSums(
            _summed(sweep.fast(code, batch_size, check, told) for code, told in images)
        )
    pairs = [
        (
            sweep.exact(code, batch_size, _span(told, 0, _RENDERING)),
            sweep.slopes(code, batch_size, _span(told, _RENDERING, 1)),
        )
        for code, told in images
    ]
    cosines = _summed(F.cosine_similarity(*pair) for pair in pairs) / len(s)
    return ChannelSums(_summed(rendered for rendered, _ in pairs), cosines)


def _check_sample(layout: StyleSpaceLayout, s: Tensor, channel_std: Tensor) -> None:
    check_shape("s", s, ("N", layout.size))
    check_shape("channel_std", channel_std, (layout.size,))
    if not len(s):
        raise ConfigError("s: got no sample image, expected at least one")
    if not channel_std.isfinite().all():
        raise ConfigError("channel_std: got NaN or infinity, expected finite deviations")


def _checked_channels(layout: StyleSpaceLayout, channels: Tensor | None) -> Tensor:
    if channels is None:
        return layout.editable_channels
    check_shape("channels", channels, ("C",))
    if channels.dtype not in (torch.int64, torch.int32):
        raise ConfigError(
            f"channels: got {channels.dtype}, expected int64 entries; "
            "a mask gives them with .nonzero().squeeze(1)"
        )
    if not len(channels) or not 0 <= channels.min() <= channels.max() < layout.size:
        raise ConfigError(
            f"channels: got {len(channels)} entries, expected at least one, all in 0 to "
            f"{layout.size - 1}"
        )
    return channels


def _tell_nobody(_: float) -> None:
    pass


def _span(tell: Tell, first: float, last: float) -> Tell:
    """What tells of a part of some work that goes from one share of it to another."""
    return lambda share: tell(first + share * (last - first))


def _summed(values: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, values)


def prompt_relevance(
    generator: Generator,
    clip: ImageEmbedder,
    s: Tensor,
    channel_std: Tensor,
    text_direction: Tensor,
    channels: Tensor | None = None,
) -> Tensor:
    """Estimate how every style channel moves images along one prompt, without any asset.

    Two backward passes an image: one along the text, and one along a random direction, which tells
    how far the channel moves images at all. `styleclip_ops.direction.relevance_direction` turns the
    result into a direction. It takes seconds where `channel_clip_directions` takes hours, and again
    for each prompt. About half of the error is that of few images: take 16 or more.

    Args:
        generator: The generator.
        clip: The image embedder.
        s: [N, layout.size] style codes of the sample images.
        channel_std: [layout.size].
        text_direction: [E], unit norm.
        channels: [C] int64 entries of the flat style code; all editable ones where None.

    Returns:
        [C] estimates of the relevance, which is -1 to 1; zero for a channel that moves no image.

    Raises:
        ShapeError: A shape does not fit the generator or CLIP.
        ConfigError: There is no sample image, a channel is out of range, or a deviation is no
            finite number.
    """
    layout = generator.layout
    _check_sample(layout, s, channel_std)
    places = _checked_channels(layout, channels).to(s.device)
    random = torch.Generator().manual_seed(0)
    along, energy = torch.zeros(2, len(places)).to(s)
    for code in s:
        with torch.enable_grad():
            leaf = code[None].detach().clone().requires_grad_()
            embedding = clip.embed_images(_small_image(generator, leaf))[0]
            check_shape("text_direction", text_direction, (len(embedding),))
            probe = torch.randn(len(embedding), generator=random).to(embedding)
            heights = (embedding @ text_direction.to(embedding), embedding @ probe)
            gradients = [torch.autograd.grad(h, leaf, retain_graph=True)[0][0] for h in heights]
        slope, movement = (gradient[places] * channel_std.to(s)[places] for gradient in gradients)
        along, energy = along + slope, energy + movement.square()
    # The mean square along random directions is the squared length of the movement.
    length = (energy / len(s)).sqrt()
    return torch.where(length > 0, along / len(s) / length, 0).clamp(-1, 1)


@dataclass(frozen=True)
class _Sweep:
    """All perturbations of one image at a time; every method gives [C, E] unit directions."""

    generator: Generator
    clip: ImageEmbedder
    channels: Tensor
    size: Tensor
    center: Tensor | None

    @torch.no_grad()
    def exact(self, style_code: Tensor, batch_size: int, tell: Tell) -> Tensor:
        directions = []
        places = []
        done = 0
        for rows, index, state in self._blocks(style_code, batch_size):
            edited = style_code.repeat(2 * len(rows), 1)
            for place, channel in enumerate(self.channels[rows].tolist()):
                edited[2 * place : 2 * place + 2, channel] = self._pair(style_code, channel)
            images = self.generator.synthesis(
                edited, state=_repeat(state, len(edited)), start=index
            )
            embeddings = self.clip.embed_images(images)
            directions.append(_image_direction(embeddings[::2], embeddings[1::2]))
            places.append(rows)
            done += len(rows)
            tell(done / len(self.channels))
        order = torch.cat(places).argsort()
        return torch.cat(directions)[order.to(style_code.device)]

    def fast(self, style_code: Tensor, batch_size: int, check: SlopeCheck, tell: Tell) -> Tensor:
        """Slopes, and perturbations of the curved channels."""
        curved, axes = check.curved, len(check.basis)
        # A backward pass takes about as long as the perturbations of a channel.
        most = axes / (axes + int(curved.sum()))
        told = _span(tell, 0, most)
        directions = self.slopes(style_code, batch_size, told, check.basis)
        if curved.any():
            some = replace(self, channels=self.channels[curved.cpu()])
            directions[curved] = some.exact(style_code, batch_size, _span(tell, most, 1))
        return directions

    @torch.enable_grad()
    def slopes(
        self, style_code: Tensor, batch_size: int, tell: Tell, basis: Tensor | None = None
    ) -> Tensor:
        """Directions of infinitely small perturbations, in the space of a basis [K, E]."""
        # One backward pass gives one embedding dimension of each copy.
        copies = max(batch_size // _GRAPH_SIZE, 1)
        codes = style_code.detach().repeat(copies, 1).requires_grad_()
        embeddings = self.clip.embed_images(_small_image(self.generator, codes))
        places = self.channels.to(codes.device)
        axes = torch.eye(embeddings.shape[1]) if basis is None else basis
        axes = axes.to(embeddings)
        slopes = []
        done = 0
        for some in torch.split(axes, copies):
            height = (embeddings[: len(some)] * some).sum()
            (gradient,) = torch.autograd.grad(height, codes, retain_graph=True)
            slopes.append(gradient[: len(some), places])
            done += len(some)
            tell(done / len(axes))
        along = torch.cat(slopes).t() * self.size[places, None]
        return F.normalize(along @ axes.to(along), dim=1)

    @torch.no_grad()
    def published(self, style_code: Tensor, tell: Tell) -> Tensor:
        visited = style_code.clone()
        directions = []
        for done, channel in enumerate(self.channels.tolist(), 1):
            pair = visited.repeat(2, 1)
            pair[:, channel] = self._pair(visited, channel)
            images = quantize_8bit(self.generator.synthesize(pair))
            minus, plus = self.clip.embed_images(images)
            directions.append(_image_direction(minus, plus))
            if self.center is not None:
                visited[channel] = self.center[channel]
            tell(done / len(self.channels))
        return torch.stack(directions)

    def _pair(self, style_code: Tensor, channel: int) -> Tensor:
        """The two values [2] of a perturbed channel, minus first."""
        center = (style_code if self.center is None else self.center)[channel]
        return torch.stack([center - self.size[channel], center + self.size[channel]])

    def _blocks(
        self, style_code: Tensor, batch_size: int
    ) -> Iterator[tuple[Tensor, int, SynthesisState]]:
        """Walk through the layers once.

        Yields places in `channels` that lie in one layer, that layer's number, and the state
        before it.
        """
        synthesis = self.generator.synthesis
        state = synthesis.initial_state(1)
        for index, layer in enumerate(self.generator.layout.layers):
            inside = (self.channels >= layer.start) & (self.channels < layer.stop)
            for rows in torch.split(inside.nonzero().squeeze(1), max(batch_size // 2, 1)):
                if len(rows):
                    yield rows, index, state
            state = synthesis.step(state, layer, style_code[None, layer.span], "const")


def _small_image(generator: Generator, s: Tensor) -> Tensor:
    """Render at most at 256 px: the RGB sum there, plus what larger layers add as constants."""
    layers = generator.layout.layers
    if generator.resolution <= _SLOPE_RESOLUTION:
        return generator.synthesize(s)
    stop = sum(layer.resolution <= _SLOPE_RESOLUTION for layer in layers)
    image = generator.synthesis(s, stop=stop)
    with torch.no_grad():
        whole = generator.synthesize(s[:1])
        detail = F.adaptive_avg_pool2d(whole, _SLOPE_RESOLUTION) - image[:1]
    small: Tensor = image + detail
    return small


def _repeat(state: SynthesisState, count: int) -> SynthesisState:
    image = None if state.image is None else state.image.expand(count, -1, -1, -1)
    return SynthesisState(state.features.expand(count, -1, -1, -1), image)


def _image_direction(minus: Tensor, plus: Tensor) -> Tensor:
    """Unit difference of unit embeddings [..., E]; zero where nothing moved."""
    return F.normalize(F.normalize(plus, dim=-1) - F.normalize(minus, dim=-1), dim=-1)


def quantize_8bit(images: Tensor) -> Tensor:
    """Reduce images in [-1, 1] to the 256 levels of a saved picture, truncating as published."""
    levels = ((images + 1) * 127.5).clamp(0, 255).floor()
    return levels / 127.5 - 1
