"""The picture being painted: colour planes, the coordinates of their pixels, and windows of it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class Canvas:
    """Hold N pictures that painters change in place.

    Attributes:
        rgb: [N, 3, H, W] linear light.
        figure: [N, H, W] how much of each pixel the person covers, in [0, 1].
        x, y: [N, H, W] head coordinates of the pixels.
        u, v: [N, H, W] face coordinates.
        skin_light: [N, 3, H, W] light on the bare head, for what is painted on the skin.
        pixel: [N, 1, 1] size of a pixel in head coordinates.
    """

    rgb: Tensor
    figure: Tensor
    x: Tensor
    y: Tensor
    u: Tensor
    v: Tensor
    skin_light: Tensor
    pixel: Tensor

    def take(self, index: Sequence[int]) -> "Canvas":
        """Return a copy of the pictures `index`."""
        chosen = list(index)
        return Canvas(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def window(self, left: float, top: float, right: float, bottom: float) -> "Canvas":
        """Return a view of the rows and columns that hold this box of head coordinates."""
        inside = (self.x > left) & (self.x < right) & (self.y > top) & (self.y < bottom)
        seen = inside.any(0)
        rows, columns = _span(seen.any(1)), _span(seen.any(0))
        names = ("rgb", "figure", "x", "y", "u", "v", "skin_light")
        cut = {name: getattr(self, name)[..., rows, columns] for name in names}
        return Canvas(**cut, pixel=self.pixel)

    def coverage(self, distance: Tensor) -> Tensor:
        """Return how much of each pixel lies inside a signed distance, [N, H, W] in [0, 1]."""
        return (0.5 - distance / self.pixel).clamp(0, 1)

    def paint(self, color: Tensor, alpha: Tensor) -> None:
        """Cover the picture with `color` [N or 1, 3, H or 1, W or 1] where `alpha` [N, H, W]."""
        self.rgb.lerp_(color.expand_as(self.rgb), alpha[:, None])
        torch.maximum(self.figure, alpha, out=self.figure)

    def darken(self, amount: Tensor, bands: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
        """Multiply the person, not the backdrop, by 1 - `amount` [N, H, W] * `bands`."""
        weights = torch.tensor(bands, device=amount.device)[None, :, None, None]
        self.rgb.mul_(1 - (amount * self.figure)[:, None] * weights)

    def slopes(self, height: Tensor) -> tuple[Tensor, Tensor]:
        """Return the derivatives of `height` [N, H, W] to the right and down."""
        return _difference(height, 2) / self.pixel, _difference(height, 1) / self.pixel


def _difference(plane: Tensor, dim: int) -> Tensor:
    length = plane.shape[dim]
    if length < 3:
        return torch.zeros_like(plane)
    out = torch.empty_like(plane)
    inner = (plane.narrow(dim, 2, length - 2) - plane.narrow(dim, 0, length - 2)) * 0.5
    out.narrow(dim, 1, length - 2).copy_(inner)
    out.narrow(dim, 0, 1).copy_(inner.narrow(dim, 0, 1))
    out.narrow(dim, length - 1, 1).copy_(inner.narrow(dim, length - 3, 1))
    return out


def _span(seen: Tensor) -> slice:
    places = seen.nonzero()
    if len(places) == 0:
        return slice(0, 0)
    return slice(int(places[0]), int(places[-1]) + 1)
