"""Alignment against the published procedure: the whole photograph searched, one after the other.

    python -m benchmarks.alignment --photos FOLDER --megapixels 12 24
    python -m benchmarks.alignment --photos FOLDER --quads

The first compares on the JPEG and PNG photographs of a folder, each with a face, at the sizes of
cameras; the second counts the photographs whose quad is that of the published search.
"""

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import dlib
import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.paired import Ratio, compare
from styleclip_ops.alignment import align_face, ffhq_quad
from tasks.photos.alignment import align_photos_shard, plan_photos
from tasks.photos.detection import MINIMUM_SCORE, FaceDetector, landmark_model
from tasks.photos.faces import faces_table

Quads = npt.NDArray[np.float64]

PHOTOS = Path(__file__).parents[1] / "demo" / "photos"
NAMES = ("astronaut.png", "grace_hopper.jpg")
# Megapixels, copies of every photograph, and pairs: the published search takes minutes at 12.
SIZES = ((None, 8, 3), (4.0, 1, 2), (12.0, 1, 1))
CROP_SIZE = 256
MINIMUM_FACE = 64
# Pixels that the faces found may differ by.
TOLERANCE = 2.0


# Megapixels at which the published search of a photograph still takes a second.
MEGAPIXELS_OF_QUADS = 2.0


class PublishedAligner:
    """Decode whole, search at twice the size, read landmarks, crop; the best detection is taken."""

    def __init__(self) -> None:
        self._detector: Any = dlib.get_frontal_face_detector()
        self._predictor: Any = dlib.shape_predictor(str(landmark_model()))

    def align(self, path: Path) -> Quads:
        """Write the crop beside the photograph, and return its quad [4, 2]."""
        photo = Image.open(path).convert("RGB")
        pixels = np.array(photo)
        landmarks = self._landmarks(pixels, self._detector(pixels, 1)[0])
        align_face(photo, landmarks, CROP_SIZE).save(path.with_suffix(".crop.png"))
        return ffhq_quad(landmarks)

    def quads(self, photo: Image.Image) -> list[Quads]:
        """Quads [4, 2] of all faces, the largest first."""
        pixels = np.array(photo)
        boxes, _, _ = self._detector.run(pixels, 1, MINIMUM_SCORE)
        quads = [ffhq_quad(self._landmarks(pixels, box)) for box in boxes]
        return sorted(quads, key=lambda quad: -float(np.hypot(*(quad[3] - quad[0]))))

    def _landmarks(self, pixels: npt.NDArray[np.uint8], box: Any) -> npt.NDArray[np.float64]:
        points = self._predictor(pixels, box).parts()
        return np.array([[point.x, point.y] for point in points], np.float64)


def run() -> Iterator[Ratio]:
    """Compare on two photographs of people as they are, and enlarged to the sizes of cameras."""
    yield from compare_sizes([PHOTOS / name for name in NAMES], SIZES)


def compare_sizes(
    photos: Sequence[Path], sizes: Iterable[tuple[float | None, int, int]]
) -> Iterator[Ratio]:
    """Compare on photographs in several sizes: megapixels, copies, and pairs of each."""
    published = PublishedAligner()
    for megapixels, copies, pairs in sizes:
        with tempfile.TemporaryDirectory() as folder:
            paths = sorted(_photographs(photos, megapixels, copies, Path(folder)))
            theirs = partial(_theirs, published, paths)
            ours = partial(_ours, folder, count())
            deviation = np.abs(theirs() - ours()).max()
            if deviation > TOLERANCE:
                raise RuntimeError(f"quads: got {deviation:.1f} px apart, expected {TOLERANCE}")
            size = f"{megapixels or 0.3:g} megapixels"
            name = f"alignment of {len(paths)} photos, {size}, all threads: against published"
            yield compare(name, ours, theirs, pairs, warm=True)


def _theirs(published: PublishedAligner, paths: Sequence[Path]) -> Quads:
    return np.array([published.align(path) for path in paths])


def _ours(folder: str, runs: Iterator[int]) -> Quads:
    """Align all photographs in a new workspace, and return their quads [N, 4, 2]."""
    workspace = f"{folder}/workspace-{next(runs)}"
    for shard in plan_photos(workspace, f"{folder}/*.jpg", 64):
        align_photos_shard(workspace, shard, CROP_SIZE, "largest", MINIMUM_FACE)
    return np.array(faces_table(workspace)["quad"].to_pylist()).reshape(-1, 4, 2)


def compare_quads(photos: Sequence[Path]) -> Iterator[tuple[str, str, float]]:
    """Compare the largest face of photographs: name, kind of search, pixels that quads differ by.

    The difference is infinite where only one of the two searches finds a face.
    """
    published, detector = PublishedAligner(), FaceDetector()
    for path in photos:
        photo = Image.open(path).convert("RGB")
        scale = (MEGAPIXELS_OF_QUADS * 1e6 / (photo.width * photo.height)) ** 0.5
        if scale < 1:
            size = (round(photo.width * scale), round(photo.height * scale))
            photo = photo.resize(size, Image.Resampling.BICUBIC)
        theirs = published.quads(photo)
        for kind in ("quick", "thorough"):
            ours = detector.find_faces(photo, MINIMUM_FACE, only_largest=kind == "quick")
            if theirs and ours:
                yield path.name, kind, float(np.abs(theirs[0] - ours[0].quad).max())
            elif theirs or ours:
                yield path.name, kind, float("inf")


def _photographs(
    photos: Sequence[Path], megapixels: float | None, copies: int, folder: Path
) -> Iterator[Path]:
    for source in photos:
        photo = Image.open(source).convert("RGB")
        if megapixels:
            scale = (megapixels * 1e6 / (photo.width * photo.height)) ** 0.5
            size = (round(photo.width * scale), round(photo.height * scale))
            photo = photo.resize(size, Image.Resampling.BICUBIC)
        for index in range(copies):
            path = folder / f"{source.stem}-{index}.jpg"
            photo.save(path, quality=92)
            yield path


def main() -> None:
    """Compare on other photographs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=PHOTOS)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[12.0, 24.0])
    parser.add_argument("--quads", action="store_true")
    arguments = parser.parse_args()
    names = NAMES if arguments.photos == PHOTOS else ("*.jpg", "*.png")
    photos = sorted(path for name in names for path in arguments.photos.glob(name))
    if arguments.quads:
        _print_quads(photos)
        return
    for ratio in compare_sizes(photos, [(size, 1, 1) for size in arguments.megapixels]):
        print(f"{ratio.name}: {ratio.median:.1f}, {ratio.ours_s / len(photos):.2f} s a photo")


def _print_quads(photos: Sequence[Path]) -> None:
    found = list(compare_quads(photos))
    for name, kind, pixels in found:
        if pixels > TOLERANCE:
            print(f"{name}: {pixels:.1f} px, {kind} search")
    for kind in ("quick", "thorough"):
        differences = [pixels for _, other, pixels in found if other == kind]
        within = sum(pixels <= TOLERANCE for pixels in differences)
        equal = sum(pixels == 0 for pixels in differences)
        total = len(differences)
        print(f"{kind} search: {within} of {total} within {TOLERANCE:g} px, {equal} equal")


if __name__ == "__main__":
    main()
