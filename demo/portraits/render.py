"""The renderer: from portraits to pictures."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from demo.portraits.accessories import (
    paint_beanie,
    paint_brimmed_hat,
    paint_earrings,
    paint_glasses,
)
from demo.portraits.attributes import Portrait
from demo.portraits.body import paint_backdrop, paint_body
from demo.portraits.canvas import Canvas
from demo.portraits.eyes import paint_brows, paint_eyes
from demo.portraits.facial_hair import paint_beard, paint_moustache, paint_stubble
from demo.portraits.geometry import face_coordinates, ffhq_frame
from demo.portraits.hair import paint_back_hair, paint_front_hair
from demo.portraits.head import paint_ears, paint_head
from demo.portraits.mouth import paint_mouth, paint_open_mouth
from demo.portraits.palette import encode
from demo.portraits.subject import Subject, pose

# Pixels painted at once: the planes of one batch stay in the cache of a processor core.
_BATCH_PIXELS = 65536
_CUDA_BATCH_PIXELS = 4194304

Painter = Callable[[Canvas, Subject], None]


def render_portraits(
    portraits: Sequence[Portrait], size: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Render portraits in the frame of the FFHQ alignment.

    Args:
        portraits: N portraits; a picture does not depend on the others in the batch.
        size: side in pixels, at least 16.
        device: where to render.

    Returns:
        [N, 3, size, size] float32 RGB in [-1, 1] on `device`.

    Raises:
        ValueError: if `size` is below 16.
    """
    if size < 16:
        raise ValueError(f"size: got {size}, expected at least 16 pixels")
    fine = supersampling(size)
    budget = _BATCH_PIXELS if torch.device(device).type == "cpu" else _CUDA_BATCH_PIXELS
    batch = max(1, budget // (size * fine) ** 2)
    pictures = torch.empty(len(portraits), 3, size, size, device=device)
    subject = pose(portraits, device)
    for start in range(0, len(portraits), batch):
        chunk = range(start, min(start + batch, len(portraits)))
        pictures[start : chunk.stop] = _render_batch(
            portraits[start : chunk.stop], subject.take(chunk), size, fine
        )
    return pictures


def supersampling(size: int) -> int:
    """Return how many samples a pixel gets along each side."""
    return 2 if size < 256 else 1


def _render_batch(portraits: Sequence[Portrait], subject: Subject, size: int, fine: int) -> Tensor:
    frame, device = ffhq_frame(subject.measures), subject.measures.yaw.device
    side = size * fine
    ticks = (torch.arange(side, device=device) + 0.5) * (2 / side) - 1
    x = (frame.x + frame.half * ticks[None, None, :]).expand(-1, side, -1).contiguous()
    y = (frame.y + frame.half * ticks[None, :, None]).expand(-1, -1, side).contiguous()
    canvas = blank_canvas(subject, x, y, frame.half * (2 / side))
    paint_backdrop(canvas, subject, frame)
    paint_portraits(canvas, subject, portraits)
    return encode(avg_pool2d(canvas.rgb, fine) if fine > 1 else canvas.rgb)


def blank_canvas(subject: Subject, x: Tensor, y: Tensor, pixel: Tensor) -> Canvas:
    """Return a black canvas over the head coordinates `x`, `y` [N, H, W]."""
    u, v = face_coordinates(subject.measures, x, y)
    rgb = torch.zeros(x.shape[0], 3, *x.shape[1:], device=x.device)
    return Canvas(rgb, torch.zeros_like(x), x, y, u, v, torch.zeros_like(rgb), pixel)


def paint_portraits(canvas: Canvas, subject: Subject, portraits: Sequence[Portrait]) -> None:
    """Paint every portrait over what its canvas shows, from back to front."""

    def where(attribute: str, option: str, painter: Painter) -> None:
        index = [i for i, p in enumerate(portraits) if getattr(p, attribute) == option]
        if len(index) == len(portraits):
            painter(canvas, subject)
        elif index:
            part = canvas.take(index)
            painter(part, subject.take(index))
            canvas.rgb[index] = part.rgb
            canvas.figure[index] = part.figure

    for style in ("curly", "bob", "long"):
        where("hair_style", style, partial(paint_back_hair, style=style))
    paint_body(canvas, subject)
    paint_ears(canvas, subject)
    paint_head(canvas, subject)
    where("beard", "stubble", paint_stubble)
    where("beard", "full", paint_beard)
    paint_mouth(canvas, subject)
    for expression in ("smiling", "surprised"):
        where("expression", expression, paint_open_mouth)
    where("moustache", "moustache", paint_moustache)
    paint_eyes(canvas, subject)
    paint_brows(canvas, subject)
    for style in ("short", "curly", "bob", "long"):
        where("hair_style", style, partial(paint_front_hair, style=style))
    where("earrings", "earrings", paint_earrings)
    where("glasses", "glasses", partial(paint_glasses, tinted=False))
    where("glasses", "sunglasses", partial(paint_glasses, tinted=True))
    where("hat", "beanie", paint_beanie)
    where("hat", "brimmed", paint_brimmed_hat)
