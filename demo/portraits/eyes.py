"""Eyes and brows."""

import torch
from torch import Tensor

from demo.portraits.canvas import Canvas
from demo.portraits.lighting import key_direction
from demo.portraits.shapes import circle, ridge, step
from demo.portraits.subject import Subject, constant

_IRIS_RADIUS = 0.56


def paint_eyes(canvas: Canvas, subject: Subject) -> None:
    """Paint white, iris, pupil, highlights, lids and lashes of both eyes."""
    m = subject.measures
    part = canvas.window(-0.75, -0.5, 0.75, 0.35)
    side = torch.sign(part.u)
    x = part.u.abs() - m.eye_x
    y = part.v - m.eye_y
    y = y + m.eye_tilt * x
    arch = (1 - (x / m.eye_width).square()).clamp(min=-0.6)
    # The upper lid peaks nearer the nose, the lower one nearer the temple, as in life.
    upper = -m.lid_up * arch * (1 - 0.9 * x) - y
    lower = y - m.lid_low * arch * (1 + 1.1 * x)
    across = (x / m.eye_width).clamp(-1, 1)
    steep = torch.sqrt(1 + (2 * m.lid_up * across / m.eye_width).square())
    opening = torch.maximum(torch.maximum(upper, lower) / steep, x.abs() - m.eye_width)
    inside = part.coverage(opening)
    _paint_ball(part, subject, (x, y, side), upper, inside)
    _paint_lids(part, subject, x, upper / steep, lower / steep)


def _paint_ball(
    part: Canvas,
    subject: Subject,
    eye: tuple[Tensor, Tensor, Tensor],
    upper: Tensor,
    inside: Tensor,
) -> None:
    m = subject.measures
    x, y, side = eye
    gaze_x = x + side * 0.05 * torch.sin(m.yaw) / 0.3
    gaze_y = y + 0.006 + 0.10 * torch.sin(m.pitch)
    shade_top = 1 - 0.42 * step(-0.075, 0.01, upper)
    ball = (1 - 0.22 * (x / m.eye_width).square()) * shade_top
    # The eye is lit like the skin around it: full white would glare in a dark face.
    exposure = 0.25 + 0.75 * subject.colors.skin.mean(1).sqrt()
    part.paint(constant("#fbf6f0", x) * (ball * exposure)[:, None], inside)
    radius = m.eye_width * _IRIS_RADIUS * (1 - 0.02 * m.old)
    distance = circle(gaze_x, gaze_y, radius)
    glow = 0.75 + 0.75 * step(-0.3, 1.0, gaze_y / radius)
    limbal = 1 - 0.62 * step(-0.026, -0.004, distance)
    iris = subject.colors.iris * (glow * limbal * shade_top)[:, None]
    part.paint(iris, inside * part.coverage(distance))
    pupil = part.coverage(circle(gaze_x, gaze_y, radius * 0.46))
    part.paint(constant("#0a0708", x), inside * pupil)
    light = key_direction(m)
    spot_x = gaze_x * side - 0.06 * light[0]
    spot_y = gaze_y + 0.034
    spots = part.coverage(circle(spot_x, spot_y, radius * 0.27))
    fill = 0.5 * part.coverage(circle(spot_x + 0.12 * light[0], gaze_y - 0.04, radius * 0.16))
    part.paint(constant("#ffffff", x), inside * torch.maximum(spots, fill))


def _paint_lids(part: Canvas, subject: Subject, x: Tensor, upper: Tensor, lower: Tensor) -> None:
    m, colors = subject.measures, subject.colors
    along = step(1.18, 0.98, (x / m.eye_width).abs())
    crease = ridge(upper - 0.050 - 0.012 * m.old, 0.016) * along
    skin_shade = torch.tensor([0.50, 0.36, 0.32], device=x.device)[None, :, None, None]
    part.paint(colors.skin * skin_shade, 0.6 * crease)
    below = ridge(lower - 0.006, 0.010) * along
    part.paint(colors.skin * skin_shade, 0.6 * below * (upper < 0))
    outer = step(-0.5, 1.0, x / m.eye_width)
    thick = 0.013 + 0.004 * m.woman + (0.006 + 0.011 * m.woman) * outer
    reach = m.eye_width * (1.02 + 0.12 * m.woman)
    wing = step(1.0, 0.90, x / reach) * step(1.06, 0.96, -x / m.eye_width)
    lash = part.coverage(upper.abs() - thick) * wing * (lower < 0.03)
    part.paint(constant("#1a100e", x), 0.94 * lash)


def paint_brows(canvas: Canvas, subject: Subject) -> None:
    """Paint both brows in the light of the skin below."""
    m = subject.measures
    part = canvas.window(-0.75, -0.7, 0.75, 0.1)
    x = (part.u.abs() - m.eye_x) / 0.20
    inner = step(0.2, -1.0, x)
    line = m.brow_y - m.brow_arch * (1 - (x - 0.25).square()) + 0.035 * x.clamp(min=0).square()
    line = line - m.brow_inner * inner + 0.25 * m.brow_inner * step(0.0, 1.0, x)
    taper = m.brow_thickness * (1 - 0.55 * step(0.0, 1.15, x)) * (0.8 + 0.2 * step(-1.05, -0.6, x))
    slope = 1 + 0.3 * (m.brow_inner.abs() / 0.08)
    distance = torch.maximum(((part.v - line).abs() - taper) / slope, (x.abs() - 1.02) * 0.20)
    hairs = 0.97 + 0.03 * torch.sin(part.u.abs() * 90 + part.v * 50)
    soft = (0.5 - distance / (part.pixel + 0.008)).clamp(0, 1)
    part.paint(subject.colors.brows * part.skin_light, 0.95 * soft * hairs)
