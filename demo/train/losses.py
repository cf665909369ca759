"""Losses between pictures. Each is the mean of absolute values of filtered differences."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def laplacian_l1(difference: Tensor, levels: int = 4) -> Tensor:
    """Sum the mean absolute values of the bands of a Laplacian pyramid (Bojanowski et al., 2018).

    Args:
        difference: [N, C, H, W]; the pyramid is linear, so that of the difference is enough.
        levels: Bands, from the finest down.
    """
    total = difference.new_zeros(())
    for _ in range(levels):
        coarse = F.avg_pool2d(difference, 2)
        band = difference - F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        total = total + band.abs().mean()
        difference = coarse
    return total


def gradient_l1(difference: Tensor) -> Tensor:
    """Sum the mean absolute steps of [N, C, H, W] between neighbours, across and down."""
    across = difference[..., 1:] - difference[..., :-1]
    down = difference[..., 1:, :] - difference[..., :-1, :]
    return across.abs().mean() + down.abs().mean()


@cache
def face_weight(size: int) -> Tensor:
    """Return the weight [size, size] of each pixel of an aligned crop.

    3 in the face, 6 below the ears, 1 far off.
    """
    place = (torch.arange(size) + 0.5) / size

    def hill(middle: float, width: float) -> Tensor:
        return torch.exp(-(((place - middle) / width) ** 2))

    face = hill(0.6, 0.25)[:, None] * hill(0.5, 0.3)
    aside = torch.exp(-((((place - 0.5).abs() - 0.29) / 0.08) ** 2))
    ears = hill(0.71, 0.1)[:, None] * aside
    return 1 + 2 * face + 5 * ears


def reconstruction_loss(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Compare pictures [N, 3, H, W] in [-1, 1]: L1, Laplacian pyramid, gradients.

    What happens in the face, where age and lipstick are a few pixels, counts up to three times, and
    earrings six times: most portraits have none, so that none at all are soon nearly right.

    Args:
        predicted: Generated pictures, of any floating type.
        wanted: The pictures wanted.
    """
    difference = (predicted.float() - wanted) * face_weight(wanted.shape[-1]).to(wanted)
    return difference.abs().mean() + laplacian_l1(difference) + gradient_l1(difference)
