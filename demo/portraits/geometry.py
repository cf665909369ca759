"""Measures of a face, its pose, and the FFHQ frame around it.

Head coordinates: x right, y down, z towards the viewer, origin between the eyes a little below
them; the average distance between the eyes is 0.5. Face coordinates (u, v) are fixed to the face
and turn with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from demo.portraits.attributes import Portrait
from demo.portraits.sampling import value_column

# radians at value 1: yaw, pitch, roll
MAX_ANGLES = (0.30, 0.13, 0.10)

# The face as a paraboloid for parallax: radii and depth.
FACE_RADII = (0.80, 1.15, 0.55)

# expression: mouth corner lift, opening, mouth width, brow raise, inner brow raise, lids, cheeks
EXPRESSIONS = {
    "neutral": (0.022, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0),
    "smiling": (0.07, 0.155, 1.30, 0.01, 0.0, -0.16, 1.0),
    "surprised": (0.0, 0.25, 0.80, 0.075, 0.0, 0.26, 0.0),
    "sad": (-0.080, 0.0, 0.95, 0.0, 0.090, -0.16, 0.0),
    "angry": (-0.045, 0.0, 1.02, -0.045, -0.10, -0.10, 0.15),
}

# How far the FFHQ frame from dlib's landmarks lies from the frame of the drawn eyes and mouth:
# size ratio, shift right and down in half frames (measured with detection.measure_scenes).
FRAME_SCALE = 0.971
FRAME_SHIFT = (-0.004, -0.008)


@dataclass(frozen=True)
class Measures:
    """Hold the geometry of N faces; every field is a [N, 1, 1] tensor in head coordinates."""

    half_width: Tensor
    jaw: Tensor
    chin: Tensor
    chin_width: Tensor
    cheek: Tensor
    eye_x: Tensor
    eye_y: Tensor
    eye_width: Tensor
    lid_up: Tensor
    lid_low: Tensor
    eye_tilt: Tensor
    brow_y: Tensor
    brow_thickness: Tensor
    brow_arch: Tensor
    brow_inner: Tensor
    nose_width: Tensor
    nose_y: Tensor
    nose_bridge: Tensor
    mouth_y: Tensor
    mouth_width: Tensor
    mouth_lift: Tensor
    mouth_open: Tensor
    lip: Tensor
    ear: Tensor
    hairline: Tensor
    volume: Tensor
    parting: Tensor
    smile: Tensor
    hatted: Tensor
    old: Tensor
    young: Tensor
    woman: Tensor
    yaw: Tensor
    pitch: Tensor
    roll: Tensor
    light_azimuth: Tensor
    light_elevation: Tensor

    def take(self, index: Sequence[int]) -> "Measures":
        """Return the measures of the faces `index`."""
        return Measures(**{f.name: getattr(self, f.name)[list(index)] for f in fields(self)})


def measure(portraits: Sequence[Portrait], device: torch.device | str = "cpu") -> Measures:
    """Return the measures of `portraits` on `device`."""

    def flag(name: str, option: str) -> Tensor:
        return torch.tensor([float(getattr(p, name) == option) for p in portraits], device=device)

    def value(name: str, low: float, high: float) -> Tensor:
        return low + (high - low) * (value_column(portraits, name).to(device) + 1) / 2

    woman, young, old = flag("gender", "woman"), flag("age", "young"), flag("age", "old")
    mood = torch.tensor([EXPRESSIONS[p.expression] for p in portraits], device=device).T
    lift, opening, stretch, raised, inner, lids, cheeks = mood
    size = value("eye_size", 0.140, 0.172) + 0.006 * woman + 0.022 * young - 0.020 * old
    roundness = value("eye_roundness", 0.50, 0.70)
    mouth_y = 0.485 + value("mouth_height", -0.035, 0.035)
    brow = value("brow_thickness", 0.020, 0.042) + 0.008 - 0.015 * woman
    lip = value("lip_fullness", 0.032, 0.064) + 0.008 * flag("lipstick", "lipstick")
    measures = {
        "half_width": value("face_width", 0.515, 0.605) - 0.012 * woman,
        "jaw": value("jaw_width", 0.455, 0.60) - 0.055 * woman + 0.035 * old,
        "chin": value("face_length", 0.79, 0.93) - 0.015 * woman - 0.055 * young + 0.5 * opening,
        "chin_width": value("chin_shape", 0.09, 0.20),
        "cheek": value("cheek_fullness", 0.010, 0.055)
        + 0.035 * cheeks
        - 0.020 * old
        + 0.020 * young,
        "eye_x": value("eye_spacing", 0.232, 0.278),
        "eye_y": torch.full_like(woman, -0.06),
        "eye_width": size,
        "lid_up": size * roundness * (1.08 + lids - 0.16 * old),
        "lid_low": size * roundness * (0.72 + 0.6 * lids),
        "eye_tilt": value("eye_tilt", -0.16, 0.22),
        "brow_y": -0.255 - value("brow_height", -0.03, 0.04) - raised + 0.015 * old,
        "brow_thickness": brow,
        "brow_arch": value("brow_arch", 0.0, 0.07) + 0.02 * woman,
        "brow_inner": inner,
        "nose_width": value("nose_width", 0.075, 0.125) - 0.008 * woman + 0.012 * old,
        "nose_y": value("nose_length", 0.165, 0.265) + 0.025 * old - 0.020 * young,
        "nose_bridge": value("nose_bridge", 0.03, 0.085),
        "mouth_y": mouth_y,
        "mouth_width": value("mouth_width", 0.165, 0.225) * stretch,
        "mouth_lift": lift - 0.016 * old,
        "mouth_open": opening,
        "lip": lip + 0.010 * woman - 0.012 * old,
        "ear": value("ear_size", 0.8, 1.3) + 0.2 * old,
        "hairline": value("hairline", -0.50, -0.60) - 0.05 * old,
        "volume": value("hair_volume", 0.6, 1.3),
        "parting": value("parting", -1.0, 1.0),
        "smile": cheeks.clamp(min=0.0) * (cheeks > 0.5),
        "hatted": 1 - flag("hat", "none"),
        "old": old,
        "young": young,
        "woman": woman,
        "yaw": value("yaw", -MAX_ANGLES[0], MAX_ANGLES[0]),
        "pitch": value("pitch", -MAX_ANGLES[1], MAX_ANGLES[1]),
        "roll": value("roll", -MAX_ANGLES[2], MAX_ANGLES[2]),
        "light_azimuth": value("light_azimuth", -1.0, 1.0),
        "light_elevation": value("light_elevation", -1.0, 1.0),
    }
    return Measures(**{name: tensor[:, None, None] for name, tensor in measures.items()})


def depth(x: Tensor, y: Tensor) -> Tensor:
    """Return the depth of the face surface at (x, y), 0 outside the face."""
    rx, ry, rz = FACE_RADII
    return rz * (1 - (x / rx).square() - (y / ry).square()).clamp(min=0)


def face_coordinates(measures: Measures, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the face coordinates (u, v) seen at head coordinates (x, y)."""
    z = depth(x, y)
    return x - torch.sin(measures.yaw) * z, y - torch.sin(measures.pitch) * z


def head_coordinates(measures: Measures, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the point (u, v) of the face is seen, the inverse of `face_coordinates`."""
    x, y = u, v
    for _ in range(12):
        z = depth(x, y)
        x, y = u + torch.sin(measures.yaw) * z, v + torch.sin(measures.pitch) * z
    return x, y


@dataclass(frozen=True)
class Frame:
    """Hold N upright square frames: centre and half side in head coordinates, [N, 1, 1] each."""

    x: Tensor
    y: Tensor
    half: Tensor


def ffhq_frame(measures: Measures) -> Frame:
    """Return the frame that the FFHQ alignment (Karras et al. 2019) crops around each face."""
    corner_y = measures.mouth_y - measures.mouth_lift
    left_x, left_y = head_coordinates(measures, -measures.eye_x, measures.eye_y)
    right_x, right_y = head_coordinates(measures, measures.eye_x, measures.eye_y)
    mouth = [head_coordinates(measures, s * measures.mouth_width, corner_y) for s in (-1, 1)]
    middle_x, middle_y = (left_x + right_x) / 2, (left_y + right_y) / 2
    across = right_x - left_x
    down_x = (mouth[0][0] + mouth[1][0]) / 2 - middle_x
    down_y = (mouth[0][1] + mouth[1][1]) / 2 - middle_y
    down = torch.sqrt(down_x.square() + down_y.square())
    half = torch.maximum(2 * across, 1.8 * down) * FRAME_SCALE
    return Frame(
        x=middle_x + 0.1 * down_x + FRAME_SHIFT[0] * half,
        y=middle_y + 0.1 * down_y + FRAME_SHIFT[1] * half,
        half=half,
    )
