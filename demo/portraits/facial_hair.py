"""Beards, stubble and moustaches."""

import torch
from torch import Tensor

from demo.portraits.canvas import Canvas
from demo.portraits.geometry import Measures
from demo.portraits.head import head_shape
from demo.portraits.lighting import shade
from demo.portraits.mouth import mouth_lines
from demo.portraits.shapes import ridge, smooth_cut, step
from demo.portraits.subject import Subject, constant

_WRAP = (0.5, 0.46, 0.44)


def paint_stubble(picture: Canvas, subject: Subject) -> None:
    """Paint a short shadow of a beard."""
    canvas = _lower_face(picture)
    m = subject.measures
    distance = _beard_distance(canvas, m, grown=0.0)
    warp = 3 * torch.sin(canvas.u * 33) + 2 * torch.sin(canvas.v * 41)
    grain = 0.88 + 0.12 * torch.sin(canvas.u * 97 + warp) * torch.sin(canvas.v * 103 - warp)
    alpha = 0.85 * step(0.04, -0.05, distance) * grain
    # Darker than any skin and any hair: else it is lost on a dark face, and red on a pale one.
    darkest = torch.minimum(subject.colors.hair, subject.colors.skin).mean(dim=1, keepdim=True)
    canvas.paint(darkest * constant("#7d8190", alpha).clamp(min=0) * 0.9, alpha)


def paint_beard(picture: Canvas, subject: Subject) -> None:
    """Paint a full beard along jaw and chin, with a bare place for the mouth."""
    canvas = _lower_face(picture)
    m = subject.measures
    distance = _beard_distance(canvas, m, grown=1.0)
    wisps = 0.014 * torch.sin(canvas.x * 47 + 2 * torch.sin(canvas.y * 11))
    _paint_whiskers(canvas, subject, distance + wisps, 0.42)


def paint_moustache(picture: Canvas, subject: Subject) -> None:
    """Paint a moustache between nose and upper lip."""
    canvas = picture.window(-0.6, 0.1, 0.6, 0.8)
    m, u, v = subject.measures, canvas.u, canvas.v
    across = u.abs() / (m.mouth_width * 0.75 + 0.085)
    under_nose = 0.5 * (m.nose_y + 0.055 + mouth_lines(canvas, m).upper - 0.4 * m.lip)
    middle = under_nose + 0.020 + 0.070 * across.square()
    thick = 0.058 * (1 - 0.80 * across.clamp(0, 1).pow(2.5)) * (1 - 0.30 * ridge(u, 0.022))
    distance = torch.maximum((v - middle).abs() - thick, (across - 1.02) * m.mouth_width)
    _paint_whiskers(canvas, subject, distance, 0.25)


def _paint_whiskers(canvas: Canvas, subject: Subject, distance: Tensor, depth: float) -> None:
    m, colors = subject.measures, subject.colors
    grain = torch.sin(canvas.x * 58 + 4 * torch.sin(canvas.y * 13) + 3 * torch.sin(canvas.x * 11))
    swell = (-distance).clamp(0, 0.10)
    height = 0.4 * depth * canvas.u.square() * -2 + 1.3 * swell - 5 * swell.square() + 0.010 * grain
    light = shade(canvas, m, height, _WRAP)
    color = colors.hair * (0.86 + 0.16 * grain[:, None]) * light.diffuse
    color = color + 0.10 * light.gloss(9) * colors.hair_light
    canvas.paint(color.clamp(min=0), canvas.coverage(distance))


def _beard_distance(canvas: Canvas, m: Measures, grown: float) -> Tensor:
    u, v = canvas.u, canvas.v
    outline, _ = head_shape(canvas, m)
    below = outline - 0.055 * grown * step(0.2, 0.8, canvas.y)
    side = u.abs() / m.half_width
    line = m.mouth_y + 0.015 - 0.46 * step(0.42, 1.05, side) - 0.055 * ridge(u, 0.4)
    lip = mouth_lines(canvas, m)
    bare = torch.maximum(lip.top - v, v - lip.bottom)
    bare = torch.maximum(bare, u.abs() - m.mouth_width * 1.02) - 0.012
    return smooth_cut(smooth_cut(below, line - v, 0.06), -bare, 0.02)


def _lower_face(picture: Canvas) -> Canvas:
    return picture.window(-0.85, -0.2, 0.85, 1.3)
