"""Signed distances (negative inside, in the units of the coordinates) and smooth steps."""

import torch
from torch import Tensor

Scalar = Tensor | float


def ellipse(x: Tensor, y: Tensor, rx: Scalar, ry: Scalar) -> Tensor:
    """Return the first-order distance to an ellipse with radii `rx`, `ry` at the origin."""
    px, py = x / rx, y / ry
    radius = torch.sqrt(px * px + py * py + 1e-6)
    slope = torch.sqrt((px / rx).square() + (py / ry).square() + 1e-6)
    return radius * (radius - 1.0) / slope


def circle(x: Tensor, y: Tensor, radius: Scalar) -> Tensor:
    """Return the distance to a circle at the origin."""
    return torch.sqrt(x * x + y * y + 1e-9) - radius


def box(x: Tensor, y: Tensor, half_x: Scalar, half_y: Scalar, corner: Scalar) -> Tensor:
    """Return the distance to a rectangle at the origin with rounded corners."""
    qx, qy = x.abs() - (half_x - corner), y.abs() - (half_y - corner)
    outside = torch.sqrt(qx.clamp(min=0).square() + qy.clamp(min=0).square() + 1e-9)
    return outside + torch.maximum(qx, qy).clamp(max=0) - corner


def smooth_union(a: Tensor, b: Tensor, blend: float) -> Tensor:
    """Return the union of two distances, rounded over the width `blend`."""
    mix = (0.5 + (b - a) / (2 * blend)).clamp(0, 1)
    return torch.lerp(b, a, mix) - blend * mix * (1 - mix)


def smooth_cut(a: Tensor, b: Tensor, blend: float) -> Tensor:
    """Return the intersection of two distances, rounded over the width `blend`."""
    return -smooth_union(-a, -b, blend)


def bump(x: Tensor, y: Tensor, width: Scalar, height: Scalar) -> Tensor:
    """Return a Gaussian of peak 1 at the origin, with 1/e radii `width`, `height`."""
    return torch.exp(-((x / width).square() + (y / height).square()))


def ridge(x: Tensor, width: Scalar) -> Tensor:
    """Return a Gaussian profile of peak 1 at `x` = 0, with 1/e radius `width`."""
    return torch.exp(-(x / width).square())


def step(low: Scalar, high: Scalar, x: Tensor) -> Tensor:
    """Return the smooth step that is 0 where x <= low and 1 where x >= high."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)
