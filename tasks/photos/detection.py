"""Faces in photographs with dlib: its frontal detector, and its 68 landmarks.

The published procedure searches a pyramid of sizes, each 5/6 of the one before, that begins at
twice the photograph. The detector here begins lower, at the size where the faces that matter can
just be found, but on a level of that same pyramid: so it looks through the same windows, and finds
the same faces in the same boxes, but for windows whose scores are almost equal. Landmarks are read
from the photograph itself.
"""

import copy
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dlib
import numpy as np
import numpy.typing as npt
from PIL import Image

from styleclip_ops.alignment import FloatArray, ffhq_quad
from styleclip_ops.errors import ConfigError
from tasks.once import once

Box = tuple[int, int, int, int]

# dlib's own limit of 0 lets patterns on clothes pass.
MINIMUM_SCORE = 0.15

# The search for one face begins at about the photograph's own size, or on the finest level whose
# sides have at most so many pixels, and goes on in steps to levels of twice the pixels; none is
# searched whose sides have more than the last number.
_FIRST_LEVEL, _FIRST_SIDE, _LEVELS_A_STEP = 4, 1280, 2
_LAST_SIDE = 4000
# Levels up to this one are made by dlib's own steps, and so have its very pixels; Pillow makes the
# coarser ones, where those steps would take as long as the search.
_LAST_EXACT_LEVEL = 2
# By how much scores in Pillow's pixels differ from those in dlib's, on average.
_DOUBT = 0.06

# The detector's box on the level where it fits, and its windows' step and first edge, in pixels.
_BOX_SIDE, _STEP, _FIRST_EDGE = 72, 8, 5
# dlib's scale from a level to the one before, its shift, and the shift after its doubling.
_SCALE, _SHIFT = 1.2, 0.3
_DOUBLING_SHIFT = (1.25, 0.75, 1.25, 0.75)
# The side of the FFHQ quad in sides of the box, at most.
_QUAD_SIDE = 2.1


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a photograph.

    Attributes:
        box: left, top, right, bottom in pixels of the photograph; may reach outside.
        score: Confidence of the detector, about 0 to 3.
        landmarks: [68, 2] float64, x and y in pixels of the photograph.
        quad: [4, 2] float64, corners of the FFHQ crop, see `ffhq_quad`.
    """

    box: Box
    score: float
    landmarks: FloatArray
    quad: FloatArray

    @property
    def side(self) -> float:
        """Side of the quad in pixels of the photograph."""
        return float(np.hypot(*(self.quad[3] - self.quad[0])))


class FaceDetector:
    """Find faces and their landmarks; may be used by several threads at once.

    Args:
        minimum_score: Detections of a lower score are left out.
    """

    def __init__(self, minimum_score: float = MINIMUM_SCORE) -> None:
        self._minimum_score = minimum_score
        # A predictor may be shared by threads, a detector not; a copy takes no time.
        self._predictor: Any = dlib.shape_predictor(str(landmark_model()))
        self._prototype: Any = dlib.get_frontal_face_detector()
        self._own = threading.local()

    def find_faces(
        self, image: Image.Image, minimum_side: float, *, only_largest: bool = False
    ) -> list[Face]:
        """Find the faces of a photograph, the largest first.

        Args:
            image: RGB, upright.
            minimum_side: Pixels of the FFHQ quad's side from which on faces must be found; smaller
                ones may be.
            only_largest: The search may stop at the first size at which the largest face that it
                has seen is clearly one and fills more than the smallest window: all that it has
                not seen then are smaller, and no smaller window may fit that face better.
        """
        finest = finest_level(*image.size, minimum_side)
        for level in _levels(image.size, finest) if only_largest else [finest]:
            faces = sorted(
                self._search(image, level),
                key=lambda face: (-face.side, -face.score, face.box),
            )
            if level == finest:
                return faces
            limit = self._minimum_score + (_DOUBT if level > _LAST_EXACT_LEVEL else 0)
            clear = [face for face in faces if face.score >= limit]
            if clear and clear[0] is faces[0] and _levels_above(faces[0].box, level) > 0:
                return clear
        return []

    def _search(self, image: Image.Image, level: int) -> Iterator[Face]:
        """Find the faces on one level of the pyramid and the coarser ones."""
        pixels = _level_pixels(image, level)
        boxes, scores, _ = self._detector.run(pixels, 0, self._minimum_score)
        for found, score in zip(boxes, scores, strict=True):
            box = _in_photograph((found.left(), found.top(), found.right(), found.bottom()), level)
            landmarks = self._landmarks(image, box)
            try:
                quad = ffhq_quad(landmarks)
            except ConfigError:
                continue
            yield Face(box, float(score), landmarks, quad)

    def _landmarks(self, image: Image.Image, box: Box) -> FloatArray:
        # The predictor looks no farther; a test compares with the whole photograph.
        margin = (box[2] - box[0]) // 2
        left, top = max(box[0] - margin, 0), max(box[1] - margin, 0)
        right = min(box[2] + margin, image.width)
        bottom = min(box[3] + margin, image.height)
        pixels = np.ascontiguousarray(image.crop((left, top, right, bottom)))
        inside = dlib.rectangle(box[0] - left, box[1] - top, box[2] - left, box[3] - top)
        points = self._predictor(pixels, inside).parts()
        return np.array([[point.x + left, point.y + top] for point in points], np.float64)

    @property
    def _detector(self) -> Any:
        if not hasattr(self._own, "detector"):
            self._own.detector = copy.deepcopy(self._prototype)
        return self._own.detector


@once
def face_detector() -> FaceDetector:
    """Return the detector of this process."""
    return FaceDetector()


def landmark_model() -> Path:
    """Return the path of dlib's landmark model.

    Raises:
        ConfigError: The package that holds it is not installed.
    """
    spec = find_spec("face_recognition_models")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "landmark model: got no package face_recognition_models, expected it to be installed; "
            "pip install face-recognition-models"
        )
    return Path(spec.origin).parent / "models" / "shape_predictor_68_face_landmarks.dat"


def finest_level(width: int, height: int, minimum_side: float) -> int:
    """Return the level of the pyramid on which a search must begin, 0 being twice the photograph.

    It shows faces whose FFHQ quad has `minimum_side` pixels in the photograph, and it is not finer
    than 4000 pixels, nor coarser than what is quick to search anyway.
    """
    shrink = 2 * minimum_side / (_BOX_SIDE * _QUAD_SIDE)
    wanted = max(math.floor(math.log(shrink, _SCALE)), 0) if shrink > 1 else 0
    size = (width, height)
    return max(min(wanted, _first_level(size)), _level_within(size, _LAST_SIDE))


def smallest_side(level: int) -> float:
    """Return about the smallest FFHQ quad in pixels of the photograph that a level shows."""
    return _BOX_SIDE * _QUAD_SIDE / 2 * _SCALE**level


def _levels(size: tuple[int, int], finest: int) -> list[int]:
    """Levels from quick to thorough, of about half of the next one's pixels each."""
    return [*range(_first_level(size), finest, -_LEVELS_A_STEP), finest]


def _first_level(size: tuple[int, int]) -> int:
    return max(_level_within(size, _FIRST_SIDE), _FIRST_LEVEL)


def _level_within(size: tuple[int, int], longest: int) -> int:
    level = 0
    while max(_level_size(size, level)) > longest:
        level += 1
    return level


def _level_pixels(image: Image.Image, level: int) -> npt.NDArray[np.uint8]:
    """Return the pixels of a level, [height, width, 3]."""
    if level > _LAST_EXACT_LEVEL:
        size = _level_size(image.size, level)
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=1)
        # dlib's scores are wrong for arrays that are not contiguous.
        return np.ascontiguousarray(image)
    width, height = _level_size(image.size, 0)
    pixels: Any = dlib.resize_image(np.ascontiguousarray(image), height, width)
    shrink = dlib.pyramid_down(6)
    for _ in range(level):
        pixels = shrink(pixels)
    return np.ascontiguousarray(pixels)


def _level_size(size: tuple[int, int], level: int) -> tuple[int, int]:
    """Width and height of a level as dlib rounds them."""
    # Doubling, dlib takes 2 (n - 1 + shift) + 1 pixels, the shift as on the way back.
    width, height = (
        _round(2 * (n - 1 + shift)) + 1 for n, shift in zip(size, _DOUBLING_SHIFT[:2], strict=True)
    )
    for _ in range(level):
        width, height = 5 * width // 6, 5 * height // 6
    return max(width, 1), max(height, 1)


def _in_photograph(box: Box, level: int) -> Box:
    """Map a box of a level to the photograph as dlib would have done, had it begun at level 0."""
    # dlib has rounded the edges; which windows they belong to is still clear.
    above = _window_level(box[2] - box[0])
    edges = []
    for edge, shift in zip(box, _DOUBLING_SHIFT, strict=True):
        window = round((_down(edge, above) - _FIRST_EDGE) / _STEP) * _STEP + _FIRST_EDGE
        edges.append(_round(_round(_up(window, above + level)) / 2 - shift))
    left, top, right, bottom = edges
    return left, top, right, bottom


def _levels_above(box: Box, level: int) -> int:
    """How many levels above `level` the box of a face in the photograph was found."""
    return _window_level(2 * (box[2] - box[0]) / _SCALE**level)


def _window_level(side: float) -> int:
    """How many levels above its own a box of so many pixels was found."""
    # A box that begins left of the photograph is a step wider: 0.58 of a level.
    return math.floor(math.log(side / _BOX_SIDE, _SCALE) + 0.2)


def _up(edge: float, levels: int) -> float:
    for _ in range(levels):
        edge = edge * _SCALE + _SHIFT
    return edge


def _down(edge: float, levels: int) -> float:
    for _ in range(levels):
        edge = (edge - _SHIFT) / _SCALE
    return edge


def _round(value: float) -> int:
    return math.floor(value + 0.5)
