"""Pictures between PIL and tensors [N, 3, R, R] in [-1, 1]."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from styleclip_ops.errors import ConfigError, check_shape


def images_to_tensor(images: Sequence[Image.Image], size: int | None = None) -> Tensor:
    """Stack square pictures.

    Args:
        images: N RGB pictures; of one size where `size` is None.
        size: Resize to this many pixels with the antialiased bilinear filter that the published
            encoder was trained with.

    Returns:
        [N, 3, R, R] float32 in [-1, 1].

    Raises:
        ConfigError: A picture is not RGB, or there is none.
        ShapeError: The pictures are not square.
    """
    if not images or any(image.mode != "RGB" for image in images):
        raise ConfigError(
            f"images: got modes {[image.mode for image in images]}, expected at least one RGB image"
        )
    if size is not None:
        images = [_resized(image, size) for image in images]
    levels = np.stack([np.asarray(image) for image in images])
    stack = torch.from_numpy(levels).permute(0, 3, 1, 2).float() / 127.5 - 1
    check_shape("images", stack, ("N", 3, "R", "R"))
    return stack


def to_levels(images: Tensor) -> Tensor:
    """Round images [N, 3, R, R] in [-1, 1] to the levels 0 to 255 of a picture, uint8."""
    return (images.detach().float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)


def tensor_to_images(images: Tensor) -> list[Image.Image]:
    """Turn images [N, 3, R, R] in [-1, 1] into 8-bit RGB pictures; values outside are clamped.

    Raises:
        ShapeError: The images are not a batch of RGB images.
    """
    check_shape("images", images, ("N", 3, "R", "R"))
    return [Image.fromarray(array) for array in to_levels(images).permute(0, 2, 3, 1).cpu().numpy()]


def _resized(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    return image.resize((size, size), Image.Resampling.BILINEAR)
