"""The FFHQ face crop from 68 landmarks (Karras et al., StyleGAN, CVPR 2019, appendix C).

Landmark points are in pixels of the photograph, x to the right and y down, in the order of the
iBUG 68-point scheme that dlib's predictor gives.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from styleclip_ops.errors import ConfigError, ShapeError

FloatArray = npt.NDArray[np.float64]

# Below this the padding has no width.
_SMALLEST_SIDE = 8


def ffhq_quad(landmarks: npt.ArrayLike) -> FloatArray:
    """Compute the oriented square that the FFHQ crop takes from a photograph.

    Args:
        landmarks: [68, 2] x and y in pixels.

    Returns:
        [4, 2] float64: top left, bottom left, bottom right, top right corner, in pixels.

    Raises:
        ShapeError: The landmarks are not [68, 2].
        ConfigError: A coordinate is not finite, or all points fall together.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (68, 2):
        raise ShapeError(f"landmarks: got shape {list(points.shape)}, expected [68, 2]")
    if not np.isfinite(points).all():
        raise ConfigError("landmarks: got NaN or infinity, expected finite pixel coordinates")
    eye_left = points[36:42].mean(axis=0)
    eye_right = points[42:48].mean(axis=0)
    eye_center = (eye_left + eye_right) * 0.5
    eye_to_eye = eye_right - eye_left
    mouth_center = (points[48] + points[54]) * 0.5
    eye_to_mouth = mouth_center - eye_center

    # The horizontal axis averages the eye line and the perpendicular of the face's long axis.
    x = eye_to_eye - np.flipud(eye_to_mouth) * [-1, 1]
    length = np.hypot(*x)
    if length == 0:
        raise ConfigError("landmarks: eyes and mouth fall together, expected a face")
    x /= length
    x *= max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8)
    y = np.flipud(x) * [-1, 1]
    center = eye_center + eye_to_mouth * 0.1
    return np.stack([center - x - y, center - x + y, center + x + y, center + x - y])


def align_face(
    image: Image.Image,
    landmarks: npt.ArrayLike,
    size: int = 256,
    *,
    transform_size: int | None = None,
) -> Image.Image:
    """Crop and level one face as FFHQ does: shrink, crop, pad with blur, warp.

    With `transform_size=None` the warp samples at the output size, as the e4e release does. The
    FFHQ set itself was made with `size=1024, transform_size=4096`.

    Args:
        image: The photograph, upright; any mode (converted to RGB).
        landmarks: [68, 2] x and y in pixels of `image`.
        size: Height and width of the result in pixels.
        transform_size: Height and width of the warp before the reduction to `size`.

    Returns:
        RGB image of `size` x `size` pixels.

    Raises:
        ShapeError: The landmarks are not [68, 2].
        ConfigError: A size is not positive, `transform_size` is below `size`, or the landmarks
            are degenerate, tiny or outside the photograph.
    """
    return cut_quad(image, ffhq_quad(landmarks), size, transform_size=transform_size)


def cut_quad(
    image: Image.Image, quad: FloatArray, size: int = 256, *, transform_size: int | None = None
) -> Image.Image:
    """Crop and level what `ffhq_quad` found, as `align_face` does.

    Args:
        image: See `align_face`.
        quad: [4, 2] corners in pixels of `image`.
        size: See `align_face`.
        transform_size: See `align_face`.

    Returns:
        RGB image of `size` x `size` pixels.

    Raises:
        ConfigError: A size is not positive, `transform_size` is below `size`, or the quad is tiny
            or outside the photograph.
    """
    warp_size = size if transform_size is None else transform_size
    if size < 1 or warp_size < size:
        raise ConfigError(
            f"size: got {size}, transform_size {warp_size}; expected 1 <= size <= transform_size"
        )
    if image.mode != "RGB":
        image = image.convert("RGB")
    side = float(np.hypot(*(quad[3] - quad[0])))
    if side < _SMALLEST_SIDE:
        raise ConfigError(
            f"landmarks: got a face of {side:.1f} px, expected at least {_SMALLEST_SIDE} px"
        )
    image, quad, side = _shrink(image, quad, side, size)
    border = max(round(side * 0.1), 3)
    image, quad = _crop(image, quad, border)
    image, quad = _pad(image, quad, side, border)
    # Pillow takes pixel edges; landmarks name pixel centres.
    corners = tuple((quad + 0.5).flatten())
    image = image.transform(
        (warp_size, warp_size), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR
    )
    if size < warp_size:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return image


def _shrink(
    image: Image.Image, quad: FloatArray, side: float, size: int
) -> tuple[Image.Image, FloatArray, float]:
    """Reduce a photograph whose face is more than twice as large as the output."""
    factor = int(np.floor(side / size * 0.5))
    if factor <= 1:
        return image, quad, side
    reduced = (max(round(image.width / factor), 1), max(round(image.height / factor), 1))
    return image.resize(reduced, Image.Resampling.LANCZOS), quad / factor, side / factor


def _bounds(quad: FloatArray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the pixels that the quad touches."""
    low = np.floor(quad.min(axis=0)).astype(int)
    high = np.ceil(quad.max(axis=0)).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _crop(image: Image.Image, quad: FloatArray, border: int) -> tuple[Image.Image, FloatArray]:
    """Cut the surroundings of the quad off."""
    left, top, right, bottom = _bounds(quad)
    box = (
        max(left - border, 0),
        max(top - border, 0),
        min(right + border, image.width),
        min(bottom + border, image.height),
    )
    if box[0] >= box[2] or box[1] >= box[3]:
        raise ConfigError(
            f"landmarks: the face lies outside the photograph of {image.width} x {image.height} px"
        )
    if box[2] - box[0] >= image.width and box[3] - box[1] >= image.height:
        return image, quad
    return image.crop(box), quad - box[:2]


def _pad(
    image: Image.Image, quad: FloatArray, side: float, border: int
) -> tuple[Image.Image, FloatArray]:
    """Mirror a face at the edge of its photograph outwards, fading into blur and the median."""
    left, top, right, bottom = _bounds(quad)
    missing = np.array(
        [
            max(-left + border, 0),
            max(-top + border, 0),
            max(right - image.width + border, 0),
            max(bottom - image.height + border, 0),
        ]
    )
    if missing.max() <= border - 4:
        return image, quad
    pad = np.maximum(missing, round(side * 0.3))
    pixels = np.pad(
        np.asarray(image, np.float32), ((pad[1], pad[3]), (pad[0], pad[2]), (0, 0)), mode="reflect"
    )
    height, width, _ = pixels.shape
    y, x, _ = np.ogrid[:height, :width, :1]
    # How far into the padding a pixel lies; 0 or less in the photograph.
    mask = np.maximum(
        1.0 - np.minimum(np.float32(x) / pad[0], np.float32(width - 1 - x) / pad[2]),
        1.0 - np.minimum(np.float32(y) / pad[1], np.float32(height - 1 - y) / pad[3]),
    )
    blur = side * 0.02
    blurred = ndimage.gaussian_filter(pixels, [blur, blur, 0])
    pixels += (blurred - pixels) * np.clip(mask * 3.0 + 1.0, 0.0, 1.0)
    pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(mask, 0.0, 1.0)
    padded = Image.fromarray(np.uint8(np.clip(np.rint(pixels), 0, 255)), "RGB")
    return padded, quad + pad[:2]
