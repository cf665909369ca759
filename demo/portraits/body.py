"""Neck, shoulders and clothes, and the backdrop."""

import torch

from demo.portraits.canvas import Canvas
from demo.portraits.geometry import Frame
from demo.portraits.head import SKIN_WRAP, head_shape
from demo.portraits.lighting import shade
from demo.portraits.shapes import bump, ellipse, smooth_cut, smooth_union, step
from demo.portraits.subject import Subject

_CLOTH_WRAP = (0.55, 0.52, 0.5)
_NECK_PIVOT = 0.7


def paint_body(picture: Canvas, subject: Subject) -> None:
    """Paint neck and clothes, leaning by the roll of the head against the body."""
    canvas = picture.window(-2.5, 0.2, 2.5, 9.0)
    m, colors = subject.measures, subject.colors
    sine, below = torch.sin(m.roll), canvas.y - _NECK_PIVOT
    x, y = canvas.x + sine * below, canvas.y - sine * canvas.x
    narrow = m.half_width * (0.56 - 0.10 * m.woman) + 0.02
    neck_x = narrow + 0.16 * step(0.80, 1.15, y)
    neck = torch.maximum(x.abs() - neck_x, 0.3 - y)
    slope = 0.97 + 0.30 * x.square() / (0.5 + x.abs())
    shoulders = smooth_cut((slope - y) * 0.9, x.abs() - 1.26 - 0.08 * (y - 1.2), 0.30)
    shoulders = smooth_union(shoulders, torch.maximum(x.abs() - narrow - 0.16, 0.93 - y), 0.10)
    collar = ellipse(x, y - 0.82, narrow + 0.05, 0.185)
    light = shade(
        canvas, m, 0.35 * torch.sqrt((1.02 - (x / neck_x).square()).clamp(min=0.02)), SKIN_WRAP
    )
    canvas.paint(colors.skin * light.diffuse * 0.93, canvas.coverage(neck))
    chin, _ = head_shape(canvas, m)
    under = 0.58 * step(0.22, -0.05, chin) * canvas.coverage(neck)
    canvas.darken(under, (0.75, 1.0, 1.05))
    cloth = torch.maximum(shoulders, -collar)
    folds = 0.012 * torch.sin(x * 9 + y * 4) + 0.010 * torch.sin(x * 17 - y * 7)
    light = shade(
        canvas,
        m,
        -0.28 * x.square() - 0.25 * (y - 1.15).clamp(max=0).square() * 3 + folds,
        _CLOTH_WRAP,
    )
    canvas.paint(colors.clothes * light.diffuse, canvas.coverage(cloth))
    band = torch.maximum(cloth, collar - 0.05)
    canvas.paint(colors.trim * light.diffuse, canvas.coverage(band))


def paint_backdrop(canvas: Canvas, subject: Subject, frame: Frame) -> None:
    """Fill the whole canvas with a soft studio backdrop, lighter behind the shoulder."""
    x, y = (canvas.x - frame.x) / frame.half, (canvas.y - frame.y) / frame.half
    azimuth = subject.measures.light_azimuth
    glow = bump(x + 0.45 * azimuth, y + 0.1, 1.1, 1.2)
    tone = 0.66 + 0.42 * glow - 0.08 * y
    canvas.rgb.copy_(subject.colors.background * tone[:, None])
