"""dlib's view of the portraits: found faces, and how its FFHQ frames differ from the renderer's."""

from dataclasses import astuple, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dlib
import numpy as np
import torch
from torch import Tensor

from demo.portraits.scene import face_truths, render_scenes, sample_scenes
from styleclip_ops.alignment import ffhq_quad


@dataclass(frozen=True)
class FrameOffset:
    """Compare a measured frame with the true one.

    Attributes:
        scale: side of the measured frame over that of the true one.
        right, down: shift of the centre in half sides of the true frame, along its own axes.
        turn: rotation in degrees, clockwise.
    """

    scale: float
    right: float
    down: float
    turn: float


@dataclass(frozen=True)
class SceneFigures:
    """Hold what dlib found in scenes of one person each.

    Attributes:
        scenes, found: number of scenes, and of those whose face was found.
        false_positives: boxes that hold no face.
        offset: mean FrameOffset over the found faces.
        spread: standard deviations of the same numbers.
    """

    scenes: int
    found: int
    false_positives: int
    offset: FrameOffset
    spread: FrameOffset


class FaceFinder:
    """Find faces and their 68 landmarks with dlib's published models.

    Args:
        minimum_score: Detections below this confidence are left out; dlib's own limit is 0.
    """

    def __init__(self, minimum_score: float = 0.0) -> None:
        self._minimum_score = minimum_score
        self._detector: Any = dlib.get_frontal_face_detector()
        self._predictor: Any = dlib.shape_predictor(str(landmark_model()))

    def landmarks(self, picture: Tensor) -> list[Tensor]:
        """Return landmarks [68, 2] in pixels of every face in `picture` [3, H, W], best first."""
        levels = (picture.clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(1, 2, 0)
        # dlib's scores are wrong for arrays that are not contiguous.
        pixels = np.ascontiguousarray(levels.cpu().numpy())
        boxes, _, _ = self._detector.run(pixels, 1, self._minimum_score)
        shapes = [self._predictor(pixels, box) for box in boxes]
        return [
            torch.tensor([[p.x, p.y] for p in shape.parts()], dtype=torch.float32)
            for shape in shapes
        ]


def landmark_model() -> Path:
    """Return the path of the landmark model in the package face-recognition-models.

    Raises:
        ValueError: if the package is not installed.
    """
    spec = find_spec("face_recognition_models")
    if spec is None or spec.origin is None:
        raise ValueError("face_recognition_models: not found, expected it to be installed")
    return Path(spec.origin).parent / "models" / "shape_predictor_68_face_landmarks.dat"


def frame_offset(landmarks: Tensor, quad: Tensor) -> FrameOffset:
    """Compare the FFHQ frame of `landmarks` [68, 2] with the true `quad` [4, 2]."""
    found = torch.as_tensor(ffhq_quad(landmarks.numpy()), dtype=torch.float32)
    side, true_side = found[3] - found[0], quad[3] - quad[0]
    half = true_side.norm() / 2
    right = true_side / true_side.norm()
    down = torch.stack([-right[1], right[0]])
    shift = (found.mean(0) - quad.mean(0)) / half
    turn = torch.atan2(side @ down, side @ right)
    return FrameOffset(
        scale=float(side.norm() / true_side.norm()),
        right=float(shift @ right),
        down=float(shift @ down),
        turn=float(torch.rad2deg(turn)),
    )


def contains(quad: Tensor, landmarks: Tensor) -> bool:
    """Return whether the middle of `landmarks` lies in the inner half of the frame `quad`."""
    distance = (landmarks.mean(0) - quad.mean(0)).norm()
    return bool(distance < (quad[3] - quad[0]).norm() / 4)


def measure_scenes(num: int, seed: int, size: int = 512) -> SceneFigures:
    """Count the faces that dlib finds in `num` >= 2 scenes, and compare its frames with the truth.

    Raises:
        ValueError: if `num` is below 2 or fewer than two faces are found.
    """
    finder, offsets, boxes = FaceFinder(), [], 0
    for scene in sample_scenes(num, seed, people=1):
        quad = face_truths(scene, size)[0].quad
        landmarks = finder.landmarks(render_scenes([scene], size)[0])
        boxes += len(landmarks)
        inside = [points for points in landmarks if contains(quad, points)]
        if inside:
            offsets.append(astuple(frame_offset(inside[0], quad)))
    if len(offsets) < 2:
        raise ValueError(f"found faces: got {len(offsets)} in {num} scenes, expected at least 2")
    table = torch.tensor(offsets)
    mean, spread = table.mean(0).tolist(), table.std(0).tolist()
    return SceneFigures(
        num, len(offsets), boxes - len(offsets), FrameOffset(*mean), FrameOffset(*spread)
    )
