"""Head, ears, nose, cheeks and wrinkles: the skin and the light on it."""

import torch
from torch import Tensor

from demo.portraits.canvas import Canvas
from demo.portraits.geometry import Measures
from demo.portraits.lighting import shade
from demo.portraits.shapes import bump, ellipse, ridge, step
from demo.portraits.subject import Subject, constant

SKIN_WRAP = (0.62, 0.44, 0.38)
SKULL_TOP = -0.80
_CENTRE_Y = -0.06


def head_shape(canvas: Canvas, measures: Measures) -> tuple[Tensor, Tensor]:
    """Return the signed distance of the head and its squared relative radius, [N, H, W] each."""
    m = measures
    turn = step(-0.3, 0.9, canvas.y)
    x = canvas.x - torch.sin(m.yaw) * 0.30 * turn
    y = canvas.y - torch.sin(m.pitch) * 0.32 * turn - _CENTRE_Y
    above = (y < 0).float()
    tall = above * (_CENTRE_Y - SKULL_TOP) + (1 - above) * (m.chin - _CENTRE_Y)
    low = step(0.05, 0.72, y)
    wide = m.half_width + (m.jaw - m.half_width) * low
    # A squarer chin keeps more of the jaw's width near the bottom.
    wide = wide * (1 + (m.chin_width - 0.13) * 1.2 * low)
    px, py = x / wide, y / tall
    square = px * px + py * py
    radius = torch.sqrt(square + 1e-6)
    slope = torch.sqrt((px / wide).square() + (py / tall).square() + 1e-6)
    return radius * (radius - 1) / slope, square


def paint_ears(canvas: Canvas, subject: Subject) -> None:
    """Paint both ears; the head covers their inner edge."""
    m = subject.measures
    part = canvas.window(-0.95, -0.35, 0.95, 0.5)
    x = (part.x + 0.10 * torch.sin(m.yaw)).abs() - m.half_width - 0.02
    y = part.y - 0.05 - 0.25 * torch.sin(m.pitch)
    x = x - 0.25 * -y.clamp(-0.2, 0.2) * 0.5
    distance = ellipse(x, y, 0.085 * m.ear, 0.165 * m.ear)
    inner = ellipse(x + 0.01, y + 0.01, 0.05 * m.ear, 0.11 * m.ear)
    height = (
        0.10 * (1 - (distance / (0.085 * m.ear) + 1).clamp(0, 1.2).square()).clamp(min=0).sqrt()
    )
    light = shade(part, m, height - 0.04 * step(0.03, -0.03, inner), SKIN_WRAP)
    hollow = 0.35 * step(0.02, -0.03, inner)[:, None]
    tint = 1 - hollow * torch.tensor([0.8, 1.15, 1.25], device=x.device)[None, :, None, None]
    part.paint(subject.colors.skin * light.diffuse * tint * 0.95, part.coverage(distance))


def face_height(canvas: Canvas, measures: Measures, square: Tensor) -> Tensor:
    """Return the height [N, H, W] of head, nose, cheeks, sockets, lips mound and chin."""
    m, u, v = measures, canvas.u, canvas.v
    side = u.abs()
    height = 0.50 * torch.sqrt((1.03 - square * (0.35 + 0.65 * square)).clamp(min=0.01))
    height = height - 0.050 * bump(side - m.eye_x, v - m.eye_y + 0.02, 0.17, 0.11)
    height = height + 0.022 * bump(side - m.eye_x, v - m.brow_y, 0.20, 0.06)
    height = height + m.cheek * 1.3 * bump(side - 0.33, v - 0.20 + 0.03 * m.smile, 0.17, 0.15)
    height = height + nose_height(m, u, v)
    height = height + 0.045 * bump(u, v - m.mouth_y, 0.24, 0.13)
    height = height - 0.018 * bump(u, v - m.mouth_y - 0.125 - 0.7 * m.mouth_open, 0.14, 0.04)
    height = height + 0.055 * bump(u, v - m.chin + 0.13, m.chin_width, 0.09)
    return height - 0.05 * m.old * bump(side - 0.36, v - 0.36, 0.10, 0.14)


def nose_height(measures: Measures, u: Tensor, v: Tensor) -> Tensor:
    """Return the relief [N, H, W] of bridge, tip and wings."""
    m = measures
    along = ((v + 0.12) / (m.nose_y + 0.12)).clamp(0, 1)
    below = step(0.075, 0.0, v - m.nose_y)
    bridge = (0.35 + 0.65 * along) * m.nose_bridge * ridge(u, 0.045 + 0.02 * along)
    bridge = bridge * below * step(-0.2, -0.02, v)
    tip = 0.125 * bump(u, v - m.nose_y, m.nose_width * 0.75, 0.070)
    wings = 0.060 * bump(u.abs() - m.nose_width * 0.92, v - m.nose_y - 0.018, 0.042, 0.045)
    return bridge + tip + wings


def paint_head(picture: Canvas, subject: Subject) -> None:
    """Paint the bare head and keep the light on it for what lies on the skin."""
    canvas = picture.window(-0.8, -0.95, 0.8, 1.2)
    m, colors = subject.measures, subject.colors
    distance, square = head_shape(canvas, m)
    height = face_height(canvas, m, square)
    light = shade(canvas, m, height, SKIN_WRAP)
    albedo = colors.skin * _complexion(canvas, subject)
    shadow = _occlusion(canvas, m)[:, None]
    # Shade on skin is red: blue and green lose more than red.
    reddened = torch.tensor([0.62, 0.95, 1.05], device=shadow.device)[None, :, None, None]
    albedo = albedo * (1 - shadow * reddened).clamp(min=0)
    # Dark skin shows its form by its highlights, light skin by its shade.
    broad = 0.44 - 0.30 * colors.skin
    glow = broad * light.gloss(10) + 0.16 * light.gloss(60) + 0.06 * light.rim()
    color = albedo * light.diffuse + glow * (0.62 + 0.26 * colors.skin)
    canvas.paint(color, canvas.coverage(distance))
    canvas.skin_light.copy_(light.diffuse)
    _paint_nostrils(canvas, m)


def _complexion(canvas: Canvas, subject: Subject) -> Tensor:
    """Return the factor [N, 3, H, W] of blush, nose, and freckles on the skin colour."""
    m, u, v = subject.measures, canvas.u, canvas.v
    side = u.abs()
    blush = 0.55 * bump(side - 0.32, v - 0.22, 0.17, 0.13) + 0.35 * bump(
        u, v - m.nose_y, 0.12, 0.08
    )
    blush = blush * (0.8 + 0.35 * m.smile + 0.6 * m.young - 0.2 * m.old)
    spots = torch.sin(u * 61 + 3 * torch.sin(v * 37)) * torch.sin(v * 67 + 3 * torch.sin(u * 41))
    spread = bump(side - 0.22, v - 0.17, 0.24, 0.13)
    freckles = 0.6 * subject.colors.freckles * step(0.45, 0.8, spots) * spread
    tint = torch.tensor([0.02, 0.30, 0.26], device=u.device)[None, :, None, None]
    brown = torch.tensor([0.35, 0.55, 0.65], device=u.device)[None, :, None, None]
    return (1 - blush[:, None] * tint) * (1 - freckles[:, None] * brown)


def _occlusion(canvas: Canvas, measures: Measures) -> Tensor:
    """Return how much the folds and hollows of the face are in shade, [N, H, W]."""
    m, u, v = measures, canvas.u, canvas.v
    side = u.abs()
    shadow = 0.42 * bump(side - m.eye_x + 0.03, v - m.eye_y + 0.04, 0.17, 0.10)
    shadow = shadow + 0.5 * bump(u, v - m.nose_y - 0.085, m.nose_width * 1.0, 0.030)
    shadow = shadow + 0.38 * bump(side - m.nose_width * 1.45, v - m.nose_y + 0.01, 0.03, 0.06)
    shadow = shadow + 0.10 * bump(u, v - m.mouth_y - 0.14 - m.mouth_open, 0.12, 0.035)
    fold = side - (m.nose_width + 0.085 + 0.34 * (v - m.nose_y).clamp(min=0))
    reach = step(m.nose_y - 0.03, m.nose_y + 0.06, v) * step(m.mouth_y + 0.06, m.mouth_y - 0.06, v)
    folds = 0.20 * m.smile * ridge(fold, 0.020)
    folds = folds + (0.14 * (1 - m.young) + 0.30 * m.old) * ridge(fold, 0.034)
    return shadow + folds * reach + m.old * _wrinkles(m, side, v)


def _wrinkles(measures: Measures, side: Tensor, v: Tensor) -> Tensor:
    m = measures
    bag = v - m.eye_y - m.lid_low - 0.055 + 0.5 * (side - m.eye_x).square() / 0.15
    bags = 0.40 * ridge(bag, 0.034) * ridge(side - m.eye_x, 0.15)
    brow = (v + 0.430 + 0.03 * torch.cos(side * 8)) / 0.085
    lines = 0.30 * ridge((brow - brow.round()) * 0.085, 0.020) * step(1.0, 0.6, (brow - 0.5).abs())
    lines = lines * step(0.42, 0.26, side)
    crow = (v - m.eye_y) / 0.05 - (side - m.eye_x - m.eye_width) * 3
    feet = 0.22 * ridge((crow - crow.round()) * 0.05, 0.010) * step(1.6, 1.3, crow.abs())
    feet = feet * bump(side - m.eye_x - m.eye_width - 0.06, v - m.eye_y, 0.045, 0.1)
    hollows = 0.20 * bump(side - 0.37, v - 0.30, 0.09, 0.13)
    corner = side - m.mouth_width - 0.03 - 0.18 * (v - m.mouth_y)
    jowls = step(m.mouth_y, m.mouth_y + 0.06, v) * step(m.chin - 0.08, m.chin - 0.18, v)
    return bags + lines + feet + hollows + 0.28 * ridge(corner, 0.030) * jowls


def _paint_nostrils(canvas: Canvas, measures: Measures) -> None:
    m = measures
    part = canvas.window(-0.4, 0.05, 0.4, 0.5)
    x, y = part.u.abs() - m.nose_width * 0.52, part.v - m.nose_y - 0.052
    distance = ellipse(x, y - 0.3 * x, 0.030, 0.017)
    part.paint(constant("#3a1712", x), 0.62 * part.coverage(distance))
