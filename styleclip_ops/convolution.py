"""3x3 convolutions of feature maps, by Winograd's algorithm where processors gain from it.

Winograd's minimal filtering (Lavin and Gray, CVPR 2016) needs a fifth of the multiplications of
the direct form. NNPACK, which torch carries for float32 on processors, has it; torch itself calls
it for batches of 16 and more only, where it is slower than image by image.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Measured against oneDNN at 16 to 512 px and 16 to 512 channels: the transforms pay from here on.
_SMALLEST = 64


def conv3x3(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve a batch with 3x3 kernels, padded to the same size.

    Args:
        x: [N, I, r, r].
        weight: [O, I, 3, 3].

    Returns:
        [N, O, r, r]. In float32 on a processor it differs by about 1e-4 of a typical value from the
        direct form at 64 px and above, and each image is computed by itself.
    """
    trained = weight.requires_grad and torch.is_grad_enabled()
    if trained or not winograd_pays(x):
        return F.conv2d(x, weight, padding=1)
    result: Tensor = _Winograd.apply(x, weight)  # type: ignore[no-untyped-call]
    return result


def winograd_pays(x: Tensor) -> bool:
    """Return whether `conv3x3` takes Winograd's algorithm for such a batch."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and min(x.shape[2:]) >= _SMALLEST
        and _nnpack_available()
    )


def _nnpack_available() -> bool:
    # Not public in torch: without it everything works, slower.
    return hasattr(torch, "_nnpack_spatial_convolution") and torch._nnpack_available()


class _Winograd(torch.autograd.Function):
    """A convolution with fixed kernels; its backward pass is another one, with them turned."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        convolve = torch._nnpack_spatial_convolution
        images = [convolve(image[None], weight, None, padding=1) for image in x]
        return images[0] if len(images) == 1 else torch.cat(images)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        turned = weight.flip(2, 3).transpose(0, 1).contiguous()
        return conv3x3(gradients[0], turned), None
