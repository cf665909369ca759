"""Global directions: a text prompt becomes one direction in style space (StyleCLIP, section 6)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from styleclip_ops.clip import TextEmbedder
from styleclip_ops.errors import (
    ConfigError,
    NoChannelError,
    ShapeError,
    check_integers,
    check_shape,
)
from styleclip_ops.prompt_templates import IMAGENET_TEMPLATES
from styleclip_ops.stylespace import StyleSpaceLayout

DEFAULT_BETA = 0.15


def prompt_embedding(
    clip: TextEmbedder, prompt: str, templates: Sequence[str] = IMAGENET_TEMPLATES
) -> Tensor:
    """Embed a prompt as the mean over sentence templates (section 6.1, "prompt engineering").

    Args:
        clip: The text embedder.
        prompt: For example "a smiling face".
        templates: Sentences with one `{}` for the prompt.

    Returns:
        [E], unit norm.

    Raises:
        ConfigError: There is no template, or one has no `{}`.
    """
    if not templates:
        raise ConfigError("templates: got none, expected at least one sentence with {}")
    for template in templates:
        if "{}" not in template:
            raise ConfigError(
                f"template {template!r}: got no {{}}, expected a place for the prompt"
            )
    embeddings = clip.embed_texts([template.replace("{}", prompt) for template in templates])
    return F.normalize(F.normalize(embeddings, dim=1).mean(dim=0), dim=0)


def text_direction(
    clip: TextEmbedder,
    neutral: str,
    target: str,
    templates: Sequence[str] = IMAGENET_TEMPLATES,
) -> Tensor:
    """Compute the direction from a neutral to a target prompt in CLIP space (section 6.1).

    Args:
        clip: The text embedder.
        neutral: What the photographs show, for example "a face".
        target: What they shall show, for example "a smiling face".
        templates: Sentences with one `{}` for the prompt.

    Returns:
        [E], unit norm.

    Raises:
        ConfigError: The two prompts have the same embedding, or a template is unusable.
    """
    delta = prompt_embedding(clip, target, templates) - prompt_embedding(clip, neutral, templates)
    if not delta.norm() > 1e-6:
        raise ConfigError(
            f"prompts: got the same embedding for {neutral!r} and {target!r}, "
            "expected two prompts that differ in meaning"
        )
    return F.normalize(delta, dim=0)


def relevance(channel_clip_directions: Tensor, text_direction: Tensor) -> Tensor:
    """Project every channel's CLIP direction on the text direction (section 6.3, equation 6).

    Args:
        channel_clip_directions: [C, E].
        text_direction: [E], unit norm.

    Returns:
        [C] in [-1, 1].

    Raises:
        ShapeError: The two do not belong to the same CLIP.
    """
    check_shape("text_direction", text_direction, ("E",))
    check_shape("channel_clip_directions", channel_clip_directions, ("C", len(text_direction)))
    return channel_clip_directions @ text_direction


def style_direction(
    channel_clip_directions: Tensor,
    text_direction: Tensor,
    channel_std: Tensor,
    layout: StyleSpaceLayout,
    beta: float | None = None,
    num_channels: int | None = None,
) -> Tensor:
    """Turn a text direction into a direction in style space (section 6.3).

    Channels below the threshold are zeroed, the rest divided by the largest relevance and scaled by
    their standard deviation; an `alpha` of 1 moves the most relevant channel by one deviation.

    Args:
        channel_clip_directions: [C, E] for the editable channels in ascending order: all of them,
            or those of the first layers (the published 1024 px asset has 5376 of 6048).
        text_direction: [E], unit norm.
        channel_std: [layout.size].
        layout: The style space.
        beta: Disentanglement threshold on |relevance|; the published default 0.15 where neither
            `beta` nor `num_channels` is given.
        num_channels: Keep this many of the most relevant channels instead.

    Returns:
        [layout.size]; zero at toRGB and at channels that are not selected.

    Raises:
        NoChannelError: No channel reaches `beta`; the message says the largest that selects one.
        ConfigError: Both `beta` and `num_channels` are given, one is outside its range, or a value
            of the asset is not finite.
        ShapeError: A shape does not fit the layout.
    """
    scores = relevance(channel_clip_directions, text_direction)
    return relevance_direction(scores, channel_std, layout, beta, num_channels)


def relevance_direction(
    relevance: Tensor,
    channel_std: Tensor,
    layout: StyleSpaceLayout,
    beta: float | None = None,
    num_channels: int | None = None,
) -> Tensor:
    """Turn the relevance of the channels for a prompt into a direction, see `style_direction`.

    Args:
        relevance: [C] for the editable channels in ascending order, or those of the first layers.
        channel_std: [layout.size].
        layout: The style space.
        beta: See `style_direction`.
        num_channels: See `style_direction`.

    Returns:
        [layout.size]; zero at toRGB and at channels that are not selected.

    Raises:
        NoChannelError: See `style_direction`.
        ConfigError: See `style_direction`.
        ShapeError: A shape does not fit the layout.
    """
    check_shape("channel_std", channel_std, (layout.size,))
    if not channel_std.isfinite().all():
        raise ConfigError("channel_std: got NaN or infinity, expected finite deviations")
    check_shape("relevance", relevance, ("C",))
    scores = relevance
    channels = covered_channels(layout, len(scores)).to(scores.device)
    selected = _select(scores, beta, num_channels)
    scaled = torch.where(selected, scores / scores.abs().max(), 0)
    direction = torch.zeros_like(channel_std)
    direction[channels] = scaled.to(channel_std) * channel_std[channels]
    return direction


def apply_direction(s: Tensor, style_direction: Tensor, alpha: float | Tensor) -> Tensor:
    """Move style codes along a direction: s + alpha * direction.

    Args:
        s: [N, S].
        style_direction: [S].
        alpha: Manipulation strength, one for all or [N]; 0 changes nothing, negative values move
            away from the target prompt.

    Returns:
        [N, S].

    Raises:
        ShapeError: The shapes do not fit.
        ConfigError: A strength is not finite.
    """
    check_shape("s", s, ("N", "S"))
    check_shape("style_direction", style_direction, (s.shape[1],))
    strength = torch.as_tensor(alpha, dtype=s.dtype, device=s.device)
    if not strength.isfinite().all():
        raise ConfigError(f"alpha: got {alpha}, expected finite numbers")
    if strength.dim():
        check_shape("alpha", strength, (len(s),))
        strength = strength[:, None]
    return s + strength * style_direction.to(s)


def covered_channels(layout: StyleSpaceLayout, rows: int) -> Tensor:
    """Return the style channels that channel CLIP directions with this many rows describe.

    The published file for 1024 px has 5376 rows, of the layers up to 256 px, of 6048 channels.

    Raises:
        ShapeError: They are not those of all layers, or of the first ones.
    """
    counts = [layer.channels for layer in layout.layers if not layer.is_torgb]
    complete = torch.tensor(counts).cumsum(0).tolist()
    if rows not in complete:
        raise ShapeError(
            f"channel_clip_directions: got {rows} rows, expected {complete[-1]} for a "
            f"{layout.resolution} px generator, or those of its first layers: {complete[:-1]}"
        )
    return layout.editable_channels[:rows]


def _select(scores: Tensor, beta: float | None, num_channels: int | None) -> Tensor:
    """Bool [C]: the channels that take part in the edit."""
    if beta is not None and num_channels is not None:
        raise ConfigError(
            f"threshold: got both beta={beta} and num_channels={num_channels}, expected one of them"
        )
    magnitude = scores.abs()
    largest = magnitude.max().item()
    if not math.isfinite(largest):
        raise ConfigError("relevance: got NaN or infinity; the channel directions are incomplete")
    if largest == 0:
        raise NoChannelError(
            "no style channel moves along these prompts: every relevance is 0; "
            "the asset holds no directions, or those of another CLIP"
        )
    if num_channels is not None:
        check_integers(1, len(scores), num_channels=num_channels)
        selected = torch.zeros_like(scores, dtype=torch.bool)
        selected[magnitude.topk(num_channels).indices] = True
        return selected
    threshold = DEFAULT_BETA if beta is None else beta
    if not threshold >= 0:
        raise ConfigError(f"beta: got {beta}, expected 0 or more")
    selected = magnitude >= threshold
    if not selected.any():
        raise NoChannelError(
            f"no style channel passes beta={threshold} (largest |relevance| {largest:.6g}); "
            f"choose beta <= {_round_down(largest):g} or give num_channels"
        )
    return selected


def _round_down(value: float, digits: int = 4) -> float:
    """A number with few digits that does not exceed `value` > 0."""
    scale = 10.0 ** (digits - 1 - math.floor(math.log10(value)))
    return math.floor(value * scale) / scale
