"""Wrapped diffuse light, soft highlights and a rim from one key light and a bright room."""

from dataclasses import dataclass

import torch
from torch import Tensor

from demo.portraits.canvas import Canvas
from demo.portraits.geometry import Measures

Vector = tuple[Tensor, Tensor, Tensor]

KEY = (0.98, 0.90, 0.80)
SKY = (0.36, 0.38, 0.43)
GROUND = (0.24, 0.19, 0.17)


@dataclass(frozen=True)
class Shading:
    """Hold the light that reaches a surface.

    Attributes:
        diffuse: [N, 3, H, W] irradiance; a front-facing white surface is about 1.
        normal: ([N, H, W],) * 3, unit vectors, y down.
        half_dot: [N, H, W] cosine between the normal and the half vector of the key light.
    """

    diffuse: Tensor
    normal: Vector
    half_dot: Tensor

    def gloss(self, sharpness: float) -> Tensor:
        """Return a highlight of exponent `sharpness`, [N, 1, H, W] in [0, 1]."""
        return self.half_dot.clamp(min=0).pow(sharpness)[:, None]

    def rim(self) -> Tensor:
        """Return the glow of grazing surfaces, [N, 1, H, W] in [0, 1]."""
        return (1 - self.normal[2]).clamp(0, 1).pow(3)[:, None]


def shade(
    canvas: Canvas, measures: Measures, height: Tensor, wrap: tuple[float, float, float]
) -> Shading:
    """Light the surface `height` [N, H, W].

    Args:
        canvas: where the surface lies.
        measures: the direction of the light.
        height: [N, H, W] towards the viewer, in head coordinates.
        wrap: how far the key light reaches round the surface, per colour; skin reddens this way.
    """
    slope_x, slope_y = canvas.slopes(height)
    length = torch.rsqrt(1 + slope_x.square() + slope_y.square())
    normal = (-slope_x * length, -slope_y * length, length)
    light = key_direction(measures)
    toward = _dot(normal, light)
    half = _unit(light[0], light[1], light[2] + 1)
    up = 0.5 - 0.5 * normal[1]
    bands = [
        key * ((toward + w) / (1 + w)).clamp(min=0) + ground + (sky - ground) * up
        for key, sky, ground, w in zip(KEY, SKY, GROUND, wrap, strict=True)
    ]
    return Shading(torch.stack(bands, 1), normal, _dot(normal, half))


def key_direction(measures: Measures) -> Vector:
    """Return the unit vector towards the key light, three [N, 1, 1] tensors."""
    x = 0.75 * measures.light_azimuth
    y = -0.42 - 0.22 * measures.light_elevation
    return _unit(x, y, torch.full_like(x, 0.85))


def _dot(a: Vector, b: Vector) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unit(x: Tensor, y: Tensor, z: Tensor) -> Vector:
    length = torch.rsqrt(x.square() + y.square() + z.square())
    return x * length, y * length, z * length
