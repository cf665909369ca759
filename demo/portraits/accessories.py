"""Glasses, earrings and hats."""

import torch
from torch import Tensor

from demo.portraits.canvas import Canvas
from demo.portraits.geometry import Measures
from demo.portraits.lighting import shade
from demo.portraits.shapes import box, ellipse, smooth_union, step
from demo.portraits.subject import Subject, constant

_CLOTH_WRAP = (0.5, 0.48, 0.46)
# Half width and half height of an earring.
_EARRING = (0.075, 0.150)


def paint_glasses(canvas: Canvas, subject: Subject, tinted: bool) -> None:
    """Paint glasses, with dark lenses if `tinted`, and their shadow on the face."""
    m = subject.measures
    part = canvas.window(-0.9, -0.55, 0.9, 0.5)
    u = part.u - 0.10 * torch.sin(m.yaw)
    lens, frame = _glasses_distances(part, m, u, tinted)
    shadow = torch.minimum(lens.abs(), frame.abs()) if not tinted else lens
    part.darken(0.24 * step(0.055, 0.0, shadow))
    inside = part.coverage(lens)
    streak = u * 0.8 + (part.v - m.eye_y) - 0.16 * torch.sign(u)
    glint = step(0.055, 0.035, streak.abs()) + 0.6 * step(0.02, 0.01, (streak + 0.105).abs())
    if tinted:
        glow = 0.012 + 0.05 * step(-0.12, 0.2, part.v - m.eye_y)
        clear = 0.30 * step(-0.02, 0.14, part.v - m.eye_y)
        part.paint(constant("#ffffff", u) * glow[:, None], (0.88 - clear) * inside)
        part.paint(constant("#8fb0d8", u), 0.14 * glint * inside)
    else:
        part.paint(constant("#f4f9ff", u), (0.02 + 0.08 * glint) * inside)
    rim = part.coverage(frame)
    shine = step(0.0, -0.02, frame) * step(0.1, -0.2, part.v - m.eye_y)
    color = constant("#15110f", u) + 0.10 * shine[:, None] * constant("#d8c8c0", u)
    part.paint(color, rim)


def _glasses_distances(part: Canvas, m: Measures, u: Tensor, tinted: bool) -> tuple[Tensor, Tensor]:
    """Return the distances of the lenses and of frame, bridge and temples."""
    x, y = u.abs() - m.eye_x - 0.012, part.v - m.eye_y - 0.004
    half_x = 0.5 * (m.eye_x + m.eye_width) - 0.022
    lens = box(x, y, half_x, 0.134 if tinted else 0.148, 0.10 if tinted else 0.115)
    thick = 0.0135
    bridge = torch.maximum((y + 0.055 + 0.25 * u.square()).abs() - 0.012, u.abs() - m.eye_x)
    bridge = torch.maximum(bridge, -lens)
    temple = torch.maximum((y + 0.06 - 0.12 * (x - half_x)).abs() - 0.009, half_x - x)
    temple = torch.maximum(temple, part.x.abs() - m.half_width - 0.035)
    return lens, torch.minimum(lens.abs() - thick, torch.minimum(bridge, temple))


def paint_earrings(canvas: Canvas, subject: Subject) -> None:
    """Paint a golden drop below each ear."""
    m = subject.measures
    part = canvas.window(-0.95, 0.0, 0.95, 0.7)
    x = (part.x + 0.08 * torch.sin(m.yaw)).abs() - m.half_width - 0.045
    y = part.y - 0.05 - 0.175 * m.ear - _EARRING[1]
    distance = ellipse(x, y, *_EARRING)
    inside = 1 - (x / _EARRING[0]).square() - (y / _EARRING[1]).square()
    height = _EARRING[0] * torch.sqrt(inside.clamp(min=1e-4))
    light = shade(part, m, height, (0.2, 0.2, 0.2))
    gold = constant("#f0b030", x) * light.diffuse + 0.9 * light.gloss(18)
    part.darken(0.3 * step(0.05, 0.0, ellipse(x, y - 0.02, *_EARRING)))
    part.paint(gold, part.coverage(distance))


def paint_beanie(picture: Canvas, subject: Subject) -> None:
    """Paint a knitted cap with a fold."""
    canvas = picture.window(-1.0, -1.2, 1.0, 0.1)
    m, x, y = subject.measures, canvas.x, canvas.y
    width = m.half_width + 0.075
    rim_y = -0.53 + 0.30 * torch.sin(m.pitch) - 0.10 * (x / width).square() + 0.06
    dome = torch.maximum(ellipse(x, y + 0.50, width, 0.60), y - rim_y)
    fold = torch.maximum((y - rim_y + 0.075).abs() - 0.085, x.abs() - width - 0.012)
    distance = smooth_union(dome, fold, 0.01)
    _cast_shadow(canvas, distance)
    ribs = torch.sin(torch.asin((x / width).clamp(-0.99, 0.99)) * 26)
    on_fold = canvas.coverage(fold)
    round_ = 0.55 * torch.sqrt(
        (1.1 - (x / width).square() - 0.6 * ((y + 0.4) / 0.62).square()).clamp(min=0.02)
    )
    lip = 0.05 * step(0.0, -0.05, fold)
    light = shade(canvas, m, round_ + lip + (0.006 + 0.006 * on_fold) * ribs, _CLOTH_WRAP)
    tone = (0.94 + 0.09 * ribs - 0.12 * on_fold)[:, None]
    seam = 1 - 0.4 * step(0.03, 0.0, (y - rim_y + 0.165).abs())[:, None]
    canvas.paint(subject.colors.accessory * tone * seam * light.diffuse, canvas.coverage(distance))


def paint_brimmed_hat(picture: Canvas, subject: Subject) -> None:
    """Paint a hat with a wide brim and a band."""
    canvas = picture.window(-1.2, -1.3, 1.2, 0.1)
    m, x, y = subject.measures, canvas.x, canvas.y
    width = m.half_width + 0.02
    brim_y = y + 0.62 - 0.30 * torch.sin(m.pitch) - 0.10 * x.square()
    brim = ellipse(x, brim_y, m.half_width + 0.31, 0.10)
    taper = width - 0.10 * step(-0.45, -1.1, y)
    crown = torch.maximum(x.abs() - taper, torch.maximum(brim_y - 0.02, -1.02 - y))
    distance = torch.minimum(crown, brim)
    _cast_shadow(canvas, distance)
    straw = constant("#d9b272", x) * 0.35 + subject.colors.accessory * 0.65
    side = 0.6 * torch.sqrt((1.15 - (x / width).square()).clamp(min=0.03))
    light = shade(canvas, m, side, _CLOTH_WRAP)
    canvas.paint(straw * light.diffuse, canvas.coverage(crown))
    band = torch.maximum((brim_y + 0.12).abs() - 0.065, x.abs() - taper - 0.004)
    canvas.paint(constant("#2a211f", x) * light.diffuse, canvas.coverage(band))
    canvas.darken(0.35 * step(0.05, -0.03, brim) * canvas.coverage(crown))
    flat = shade(canvas, m, -0.9 * (brim_y + 0.04).square() - 0.15 * x.square(), _CLOTH_WRAP)
    canvas.paint(straw * flat.diffuse * 1.05, canvas.coverage(brim))


def _cast_shadow(canvas: Canvas, distance: Tensor) -> None:
    canvas.darken(0.30 * step(0.08, -0.02, distance))
