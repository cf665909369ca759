"""Colours in linear light, from tables of sRGB colours."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

SKIN = ("#ffe0cf", "#fad0b4", "#efba94", "#d99c70", "#bd7f53", "#9a6140", "#85523a", "#744733")
IRIS = ("#4a2812", "#7a4a1e", "#7d7a34", "#3f8f62", "#3b86c4", "#86aecb")
HAIR: Mapping[str, tuple[str, str]] = {
    "black": ("#0f0d10", "#231c1d"),
    "brown": ("#3e2214", "#6d4325"),
    "blond": ("#d3a04a", "#f0d084"),
    "red": ("#96290f", "#d1541c"),
    "grey": ("#94959b", "#d6d6d6"),
}
LIPSTICK = ("#b3122e", "#d41f52")


def linear(color: str) -> tuple[float, float, float]:
    """Return the linear RGB of "#rrggbb"."""
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red**2.2, green**2.2, blue**2.2


def encode(rgb: Tensor) -> Tensor:
    """Map linear light [..., 3, H, W] to display values in [-1, 1], with a soft shoulder."""
    excess = (rgb - 0.7).clamp(min=0)
    rolled = rgb - excess + 0.3 * (1 - torch.exp(-excess / 0.3))
    return rolled.clamp(1e-4, 1).pow(1 / 2.2) * 2 - 1


def ramp(colors: Sequence[str], position: Tensor) -> Tensor:
    """Interpolate between colours.

    Args:
        colors: at least two sRGB colours.
        position: [N] in [-1, 1]; -1 is the first colour, 1 the last.

    Returns:
        [N, 3, 1, 1] linear RGB.
    """
    table = torch.tensor([linear(c) for c in colors], device=position.device)
    place = (position + 1) / 2 * (len(colors) - 1)
    low = place.floor().clamp(0, len(colors) - 2).long()
    mixed = torch.lerp(table[low], table[low + 1], (place - low)[:, None])
    return mixed[:, :, None, None]


def hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Return linear RGB [N, 3, 1, 1] of hue in turns, saturation and value [N]."""
    offset = torch.tensor([0.0, 2 / 3, 1 / 3], device=hue.device)
    wheel = ((hue[:, None] + offset).remainder(1) * 6 - 3).abs().sub(1).clamp(0, 1)
    rgb = value[:, None] * (1 - saturation[:, None] * (1 - wheel))
    return rgb.pow(2.2)[:, :, None, None]
