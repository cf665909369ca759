"""Scenes: portraits placed in photograph-like pictures, with the truth about where they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from demo.portraits.attributes import Portrait
from demo.portraits.geometry import ffhq_frame
from demo.portraits.palette import encode, hsv
from demo.portraits.render import blank_canvas, paint_portraits
from demo.portraits.sampling import sample_portraits
from demo.portraits.shapes import bump, circle, step
from demo.portraits.subject import pose

# Shares of scenes with no, one and two people.
PEOPLE_RATES = (0.05, 0.75, 0.20)
MAX_SCENE_ROLL = 15.0


@dataclass(frozen=True)
class Placement:
    """Place a portrait in a scene.

    Attributes:
        portrait: who.
        x, y: centre of the FFHQ frame in sides of the scene, from its top left corner.
        scale: side of the frame in sides of the scene.
        roll: lean in degrees, clockwise.
    """

    portrait: Portrait
    x: float
    y: float
    scale: float
    roll: float


@dataclass(frozen=True)
class Scene:
    """Describe a picture: people, the farthest first, before a backdrop drawn from `seed`."""

    placements: tuple[Placement, ...]
    seed: int


@dataclass(frozen=True)
class FaceTruth:
    """Hold where a face is in pixels.

    Attributes:
        quad: [4, 2] corners of the FFHQ frame: top left, bottom left, bottom right, top right.
        box: left, top, right, bottom of the face from the brows to the chin.
    """

    quad: Tensor
    box: tuple[float, float, float, float]


def sample_scenes(num: int, seed: int, people: int | None = None) -> list[Scene]:
    """Return `num` scenes; scene i depends on `seed`, `people` and i only.

    Args:
        num: number of scenes.
        seed: name of the series.
        people: 0, 1 or 2 in every scene; None draws the number by PEOPLE_RATES.

    Raises:
        ValueError: if `people` is another number.
    """
    if people not in (None, 0, 1, 2):
        raise ValueError(f"people: got {people}, expected 0, 1, 2 or None")
    return [_sample_scene(seed, i, people) for i in range(num)]


def render_scenes(
    scenes: Sequence[Scene], size: int = 512, device: torch.device | str = "cpu"
) -> Tensor:
    """Render scenes.

    Returns:
        [N, 3, size, size] float32 RGB in [-1, 1].
    """
    pictures = torch.empty(len(scenes), 3, size, size, device=device)
    for picture, scene in zip(pictures, scenes, strict=True):
        rgb = _paint_room(scene.seed, size, device)
        for placement in scene.placements:
            rgb = _paint_person(rgb, placement)
        picture.copy_(encode(rgb)[0])
    return pictures


def face_truths(scene: Scene, size: int = 512) -> list[FaceTruth]:
    """Return where the faces of `scene` lie when it is rendered at `size`."""
    return [_face_truth(placement, size) for placement in scene.placements]


def _sample_scene(seed: int, index: int, people: int | None) -> Scene:
    random = np.random.Generator(np.random.Philox(key=[seed, (1 << 32) + index]))
    draw = int(np.searchsorted(np.cumsum(PEOPLE_RATES), random.random(), side="right"))
    count = min(draw, 2) if people is None else people
    portraits = sample_portraits(count, seed, start=2 * index)
    placements = [_sample_placement(random, p, i, count) for i, p in enumerate(portraits)]
    return Scene(tuple(placements), int(random.integers(1 << 31)))


def _sample_placement(
    random: np.random.Generator, portrait: Portrait, index: int, count: int
) -> Placement:
    largest = 0.8 if count == 1 else 0.46
    scale = float(random.uniform(0.35, largest))
    margin = 0.46 * scale
    x = float(random.uniform(margin, 1 - margin))
    if count == 2:
        x = (0.26, 0.74)[index] + float(random.uniform(-0.02, 0.02))
    y = float(random.uniform(margin + 0.02, max(margin + 0.04, 0.95 - margin)))
    roll = float(random.uniform(-MAX_SCENE_ROLL, MAX_SCENE_ROLL))
    return Placement(portrait, x, y, scale, roll)


def _paint_person(rgb: Tensor, placement: Placement) -> Tensor:
    size, device = rgb.shape[-1], rgb.device
    subject = pose([placement.portrait], device)
    frame = ffhq_frame(subject.measures)
    ticks = (torch.arange(size, device=device) + 0.5) / size
    right, down = ticks[None, None, :] - placement.x, ticks[None, :, None] - placement.y
    cosine, sine = _cos_sin(placement.roll)
    ratio = frame.half * 2 / placement.scale
    x = frame.x + ratio * (cosine * right + sine * down)
    y = frame.y + ratio * (cosine * down - sine * right)
    canvas = blank_canvas(subject, x, y, ratio / size)
    canvas.rgb = rgb.clone()
    paint_portraits(canvas, subject, [placement.portrait])
    return canvas.rgb


def _face_truth(placement: Placement, size: int) -> FaceTruth:
    measures = pose([placement.portrait]).measures
    frame = ffhq_frame(measures)
    corners = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [1.0, -1.0]])
    wide, top, low = measures.half_width.item(), -0.36, measures.chin.item()
    outline = torch.tensor([[-wide, 0.1], [wide, 0.1], [0.0, top], [0.0, low]])
    outline = (outline - torch.tensor([frame.x.item(), frame.y.item()])) / frame.half.item()
    edges = _to_pixels(outline, placement, size)
    left, up = edges.amin(0).tolist()
    right, down = edges.amax(0).tolist()
    return FaceTruth(_to_pixels(corners, placement, size), (left, up, right, down))


def _to_pixels(points: Tensor, placement: Placement, size: int) -> Tensor:
    """Map points [K, 2] of the frame ([-1, 1] each) to pixels of the scene."""
    cosine, sine = _cos_sin(placement.roll)
    turn = torch.tensor([[cosine, sine], [-sine, cosine]])
    centre = torch.tensor([placement.x, placement.y])
    return (centre + points @ turn * (placement.scale / 2)) * size


def _cos_sin(degrees: float) -> tuple[float, float]:
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def _paint_room(seed: int, size: int, device: torch.device | str) -> Tensor:
    """Paint an out-of-focus room or garden, [1, 3, size, size] linear light."""
    random = np.random.Generator(np.random.Philox(key=[seed, 0]))
    ticks = (torch.arange(size, device=device) + 0.5) / size
    x, y = ticks[None, None, :], ticks[None, :, None]
    hue, apart, bright = random.random(), random.uniform(0.06, 0.2), random.uniform(0.55, 0.9)
    far = _tint(hue, random.uniform(0.12, 0.4), bright, device)
    near = _tint(hue + apart, random.uniform(0.2, 0.5), 0.65 * bright, device)
    horizon = random.uniform(0.55, 0.8) + random.uniform(-0.1, 0.1) * (x - 0.5)
    rgb = torch.lerp(far, near, step(-0.06, 0.06, y - horizon)[:, None])
    for _ in range(int(random.integers(8, 18))):
        centre_x, centre_y, radius = (
            random.random(),
            0.75 * random.random(),
            random.uniform(0.03, 0.12),
        )
        disc = step(0.012, -0.012, circle(x - centre_x, y - centre_y, radius))
        spot = _tint(hue + random.uniform(-0.12, 0.12), 0.35, random.uniform(0.5, 1.0), device)
        rgb = torch.lerp(rgb, spot, (random.uniform(0.12, 0.4) * disc)[:, None])
    light_x = random.uniform(0.2, 0.8)
    return rgb * (0.72 + 0.38 * bump(x - light_x, y - 0.3, 0.8, 0.9))[:, None]


def _tint(hue: float, saturation: float, value: float, device: torch.device | str) -> Tensor:
    numbers = (
        torch.tensor([n], device=device, dtype=torch.float32) for n in (hue, saturation, value)
    )
    return hsv(*numbers)
