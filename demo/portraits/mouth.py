"""Lips, teeth and the open mouth."""

from dataclasses import dataclass

import torch
from torch import Tensor

from demo.portraits.canvas import Canvas
from demo.portraits.geometry import Measures
from demo.portraits.shapes import bump, ellipse, ridge, step
from demo.portraits.subject import Subject, constant


@dataclass(frozen=True)
class MouthLines:
    """Hold the four edges of the lips as rows [N, H, W] (y down), and the distance to the corners.

    The order is top of the upper lip, top and bottom of the opening, bottom of the lower lip.
    """

    top: Tensor
    upper: Tensor
    lower: Tensor
    bottom: Tensor
    ends: Tensor


def mouth_lines(canvas: Canvas, measures: Measures) -> MouthLines:
    """Return the lip edges over every pixel."""
    m, u = measures, canvas.u
    across = u / m.mouth_width
    arch = (1 - across.square()).clamp(min=0)
    line = m.mouth_y - m.mouth_lift * across.square().clamp(max=1.3)
    bow = m.lip * (1.1 * arch.sqrt() - 0.45 * ridge(u, 0.035))
    round_open = 0.38 * (1 - m.smile)
    upper = line - m.mouth_open * round_open * arch
    lower = line + m.mouth_open * (1 - round_open) * arch.pow(0.7)
    return MouthLines(
        top=upper - bow.clamp(min=0),
        upper=upper,
        lower=lower,
        bottom=lower + 1.35 * m.lip * arch.sqrt(),
        ends=(across.abs() - 1.0) * m.mouth_width,
    )


def paint_mouth(picture: Canvas, subject: Subject) -> None:
    """Paint the lips in the light of the skin."""
    canvas = _mouth_window(picture)
    m, colors, v = subject.measures, subject.colors, canvas.v
    lines = mouth_lines(canvas, m)
    lips = torch.maximum(torch.maximum(lines.top - v, v - lines.bottom), lines.ends)
    on_lower = step(-0.01, 0.02, v - 0.5 * (lines.upper + lines.lower))
    shine = bump(canvas.u, v - lines.lower - 0.6 * m.lip, 0.4 * m.mouth_width, 0.3 * m.lip)
    tone = (0.80 + 0.26 * on_lower)[:, None]
    canvas.paint(
        colors.lips * tone * canvas.skin_light + 0.10 * shine[:, None], canvas.coverage(lips)
    )
    line = ridge(v - lines.upper, 0.017) * step(0.03, -0.01, lines.ends)
    canvas.paint(colors.lips * 0.22, 0.9 * line)
    corner = bump(canvas.u.abs() - m.mouth_width, v - m.mouth_y + m.mouth_lift, 0.022, 0.022)
    canvas.paint(colors.skin * 0.35, 0.55 * corner)


def paint_open_mouth(picture: Canvas, subject: Subject) -> None:
    """Paint the inside of the mouth, tongue and teeth."""
    canvas = _mouth_window(picture)
    m, v = subject.measures, canvas.v
    lines = mouth_lines(canvas, m)
    opening = torch.maximum(torch.maximum(lines.upper - v, v - lines.lower), lines.ends)
    inside = canvas.coverage(opening)
    canvas.paint(constant("#3c0d10", v), inside)
    tongue = ellipse(canvas.u, v - lines.lower - 0.01, 0.62 * m.mouth_width, 0.45 * m.mouth_open)
    canvas.paint(constant("#b9474a", v), 0.9 * inside * canvas.coverage(tongue))
    reach = (0.72 * m.smile + 0.22 * (1 - m.smile)) * (lines.lower - lines.upper)
    teeth = torch.maximum(v - lines.upper - reach, canvas.u.abs() - 0.93 * m.mouth_width)
    shaded = 0.84 + 0.16 * step(0.0, 0.035, v - lines.upper)
    shaded = shaded * (1 - 0.28 * (canvas.u / m.mouth_width).square())
    white = constant("#fffaf2", v) * shaded[:, None]
    canvas.paint(white, inside * canvas.coverage(teeth))


def _mouth_window(picture: Canvas) -> Canvas:
    return picture.window(-0.55, 0.2, 0.55, 0.95)
