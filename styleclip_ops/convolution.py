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
# Not public in torch: without it everything works, slower. Asked once, since torch.compile cannot
# trace the question.
_HAS_NNPACK = hasattr(torch, "_nnpack_spatial_convolution") and torch._nnpack_available()


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
    result: Tensor = _winograd(x, weight)
    return result


def winograd_pays(x: Tensor) -> bool:
    """Return whether `conv3x3` takes Winograd's algorithm for such a batch."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and min(x.shape[2:]) >= _SMALLEST
        and _HAS_NNPACK
    )


@torch.library.custom_op("styleclip::winograd3x3", mutates_args=())
def _winograd(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve image by image; an operator of its own, since torch.compile knows none of NNPACK."""
    convolve = torch._nnpack_spatial_convolution
    images = [convolve(image[None], weight, None, padding=1) for image in x]
    return images[0] if len(images) == 1 else torch.cat(images)


@_winograd.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(len(x), len(weight), *x.shape[2:])


def _keep_weight(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(inputs[1])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    """Of a convolution with fixed kernels: another one, with them turned."""
    (weight,) = ctx.saved_tensors
    turned = weight.flip(2, 3).transpose(0, 1).contiguous()
    return conv3x3(gradient, turned), None


_winograd.register_autograd(_backward, setup_context=_keep_weight)
