"""Scalp hair: what hangs behind the head and what lies on it, per style."""

import torch
from torch import Tensor

from demo.portraits.canvas import Canvas
from demo.portraits.geometry import Measures
from demo.portraits.head import SKULL_TOP, head_shape
from demo.portraits.lighting import shade
from demo.portraits.shapes import ellipse, smooth_cut, smooth_union, step
from demo.portraits.subject import Subject

HAIR_WRAP = (0.45, 0.42, 0.40)


def paint_back_hair(picture: Canvas, subject: Subject, style: str) -> None:
    """Paint the hair behind neck and head of the styles "curly", "bob" and "long"."""
    canvas = picture.window(-1.2, -1.2, 1.2, 1.9)
    distance = _under_hat(canvas, subject.measures, _back_distance(canvas, subject.measures, style))
    height = -0.12 + 0.5 * (-distance).clamp(0, 0.3)
    _paint_hair(canvas, subject, distance, height, 0.62, _strands(canvas, subject.measures, style))


def paint_front_hair(picture: Canvas, subject: Subject, style: str) -> None:
    """Paint the hair in front of the head, with its shadow on the face."""
    canvas = picture.window(-1.2, -1.2, 1.2, 0.4 if style in ("short", "curly") else 1.8)
    m = subject.measures
    outline, square = head_shape(canvas, m)
    hair = _under_hat(canvas, m, _front_distance(canvas, m, outline, style))
    cast = step(0.085, -0.02, hair) * step(0.03, -0.03, outline)
    canvas.darken(cast, (0.22, 0.32, 0.34))
    swell = (-hair).clamp(0, 0.11)
    height = 0.50 * torch.sqrt((1.25 - square).clamp(min=0.02)) + 1.5 * swell - 5.5 * swell.square()
    fade = _fade(canvas, m) if style == "short" else None
    _paint_hair(canvas, subject, hair, height, 1.0, _strands(canvas, m, style), fade)


def _paint_hair(
    canvas: Canvas,
    subject: Subject,
    distance: Tensor,
    height: Tensor,
    brightness: float,
    strands: Tensor,
    fade: Tensor | None = None,
) -> None:
    m, colors = subject.measures, subject.colors
    light = shade(canvas, m, height + 0.010 * strands, HAIR_WRAP)
    tone = (0.98 + 0.20 * strands - 0.22 * step(-0.05, 0.0, distance))[:, None]
    color = colors.hair * tone * light.diffuse * brightness
    sheen = light.gloss(9) * (0.60 + 0.40 * strands)[:, None] + 0.35 * light.rim()
    color = color + 0.30 * brightness * sheen * colors.hair_light
    alpha = canvas.coverage(distance)
    canvas.paint(color.clamp(min=0), alpha if fade is None else alpha * fade)


def _under_hat(canvas: Canvas, m: Measures, distance: Tensor) -> Tensor:
    """Cut hair off above the line of a hat, where the subject wears one."""
    above = -0.60 - canvas.y
    return torch.maximum(distance, above * m.hatted - 9 * (1 - m.hatted))


def _back_distance(canvas: Canvas, m: Measures, style: str) -> Tensor:
    x, y = canvas.x, canvas.y
    if style == "curly":
        puff = ellipse(x, y + 0.30, 0.68 + 0.11 * m.volume, 0.56 + 0.10 * m.volume)
        return _scallops(canvas, m, puff, -0.30)
    crown = ellipse(x, y + 0.22, m.half_width + 0.05 + 0.07 * m.volume, 0.66 + 0.04 * m.volume)
    wave = 0.018 * torch.sin(y * 9 + 3 * m.parting)
    width = m.half_width + 0.03 + 0.09 * m.volume
    if style == "bob":
        flare = width + 0.06 * step(-0.2, 0.5, y) - 0.05 * step(0.5, 0.66, y)
        fall = torch.maximum(x.abs() - flare, y - 0.66 + 0.25 * x.square())
    else:
        flare = width + 0.14 * step(0.0, 1.2, y)
        fall = torch.maximum((x + wave).abs() - flare, y - 1.62)
    return smooth_union(crown, torch.maximum(fall, -0.25 - y), 0.12)


def _front_distance(canvas: Canvas, m: Measures, outline: Tensor, style: str) -> Tensor:
    """Return the distance of the hair on the head: inside the silhouette, outside the face."""
    x, y, u, v = canvas.x, canvas.y, canvas.u, canvas.v
    part = m.parting
    if style == "short":
        lean = x * torch.sign(part)
        rise = (0.055 + 0.075 * m.volume * step(-0.45, 0.5, lean)) * step(-0.05, -0.75, y)
        tufts = 0.013 * torch.sin(x * 31 + 4 * torch.sin(x * 6) + 5 * part) * step(-0.4, -0.7, y)
        silhouette = outline - rise - tufts
        edge = m.hairline + 0.028 * torch.sin(u * 27 + 4 * torch.sin(u * 5) + 4 * part) * step(
            0.42, 0.2, u.abs()
        )
        edge = edge + 0.10 * (lean + 0.35).clamp(-0.3, 0.7)
        face = smooth_cut(ellipse(u, v - 0.30, m.half_width * 0.93, 1.05), edge - v, 0.10)
        return smooth_cut(smooth_cut(silhouette, -face, 0.03), y - 0.14, 0.03)
    if style == "curly":
        face = ellipse(u, v - 0.22, m.half_width * 0.92, 0.70 + (0.52 + m.hairline) * -1.0)
        silhouette = ellipse(x, y + 0.36, m.half_width + 0.07 + 0.04 * m.volume, 0.58)
        cap = smooth_cut(silhouette, -_scallops(canvas, m, face, 0.22), 0.04)
        return smooth_cut(cap, y - 0.22, 0.05)
    silhouette = outline - (0.05 + 0.045 * m.volume) * step(0.25, -0.35, y) - 0.02
    if style == "bob":
        fringe = -0.36 + 0.06 * u.square() + 0.012 * torch.sin(u * 55 + 5 * part)
        face = smooth_cut(ellipse(u, v - 0.32, m.half_width * 0.86, 0.95), fringe - v, 0.05)
        side = smooth_cut(x.abs() - m.half_width - 0.07 - 0.06 * m.volume, y - 0.62, 0.08)
        side = smooth_cut(side, -0.12 - y, 0.25)
        return smooth_cut(smooth_union(silhouette, side, 0.18), -face, 0.02)
    centre = 0.16 * part
    curtain = 0.62 * torch.sqrt((u - centre).square() + 0.002)
    # Open below: the hair hangs straight down beside the neck.
    oval = ellipse(u, (v - 0.35).clamp(max=0), m.half_width * 0.91 + 0.03 * torch.sin(v * 5), 1.15)
    face = smooth_cut(oval, m.hairline + curtain - v, 0.10)
    wave = 0.03 * torch.sin(y * 7 + 2 * part)
    side = x.abs() - m.half_width - 0.07 - 0.07 * m.volume - 0.12 * step(0.3, 1.3, y) + wave
    side = smooth_cut(side, torch.maximum(-0.10 - y, y - 1.5), 0.25)
    hanging = smooth_union(torch.maximum(silhouette, y - 0.4), side, 0.22)
    return smooth_cut(hanging, -face, 0.02)


def _scallops(canvas: Canvas, m: Measures, distance: Tensor, centre_y: float) -> Tensor:
    """Return `distance` with an edge of curls around (0, `centre_y`)."""
    angle = torch.atan2(canvas.y - centre_y, canvas.x)
    curl = torch.sin(angle * 13 + 3 * m.parting).abs() + 0.6 * torch.sin(angle * 21 + 1).abs()
    return distance - 0.030 * curl + 0.02


def _strands(canvas: Canvas, m: Measures, style: str) -> Tensor:
    """Return the relief of strands or curls, [N, H, W] in [-1, 1]."""
    x, y = canvas.x, canvas.y
    if style == "curly":
        warp_x = x * 27 + 2.0 * torch.sin(y * 17 + 4 * m.parting)
        warp_y = y * 27 + 2.0 * torch.sin(x * 19)
        return torch.sin(warp_x) * torch.sin(warp_y)
    if style == "short":
        along = x * 1.0 - 0.55 * torch.sign(m.parting) * (y - SKULL_TOP)
        return 0.6 * torch.sin(along * 46 + 4 * torch.sin(y * 7)) + 0.4 * torch.sin(along * 83 + 2)
    # Strands fan out of the parting on top and hang straight below.
    top = (y + 0.9).clamp(0.06, 0.9)
    fan = (x - 0.12 * m.parting) / (0.35 + 0.65 * top)
    return 0.6 * torch.sin(fan * 52 + 2 * torch.sin(y * 6)) + 0.4 * torch.sin(fan * 97 + 1)


def _fade(canvas: Canvas, m: Measures) -> Tensor:
    """Return the thinning of short hair towards the ears, [N, H, W] in [0, 1]."""
    low = step(-0.32, 0.14, canvas.y) * step(0.6, 0.8, canvas.x.abs() / m.half_width)
    return 1 - 0.85 * low
