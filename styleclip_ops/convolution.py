"""3x3 convolutions of feature maps, also upsampling ones, by what is fastest on the device.

An upsampling one (a transposed convolution of stride 2 and a blur) is computed by the four phases
of its output, and a plain one by Winograd's algorithm where processors gain from it.

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
# Likewise against oneDNN's transposed convolution.
_MANY_CHANNELS, _SMALLEST_UPSAMPLED = 512, 32
# Not public in torch: without it everything works, slower. Asked once, since torch.compile cannot
# trace the question.
_HAS_NNPACK = hasattr(torch, "_nnpack_spatial_convolution") and torch._nnpack_available()


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve a batch with 3x3 kernels, padded to the same size.

    Args:
        x: [N, I, r, r].
        weight: [O, I, 3, 3].
        bias: [O].

    Returns:
        [N, O, r, r]. In float32 on a processor it differs by about 1e-4 of a typical value from the
        direct form at 64 px and above, and each image is computed by itself.
    """
    if is_differentiated(weight, bias) or not winograd_pays(x):
        return F.conv2d(x, weight, bias, padding=1)
    result: Tensor = _winograd(x, weight, bias)
    return result


def upsample_conv3x3(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve a batch with 3x3 kernels, transposed and at stride 2.

    Args:
        x: [N, I, r, r].
        weight: [O, I, 3, 3].

    Returns:
        [N, O, 2r + 1, 2r + 1].
    """
    if not phases_pay(x, weight):
        return F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    # Even places of the result see two taps of a kernel's three, odd ones the one between.
    side = 2 * x.shape[-1] + 1
    result = x.new_empty(len(x), len(weight), side, side)
    even, odd = weight[:, :, ::2].flip(2), weight[:, :, 1:2]
    for rows, padded, kernels in ((0, 1, even), (1, 0, odd)):
        result[:, :, rows::2, ::2] = F.conv2d(x, kernels[..., ::2].flip(3), padding=(padded, 1))
        result[:, :, rows::2, 1::2] = F.conv2d(x, kernels[..., 1:2], padding=(padded, 0))
    return result


def phases_pay(x: Tensor, weight: Tensor) -> bool:
    """Return whether `upsample_conv3x3` computes even and odd places apart for such a batch."""
    return (
        not is_differentiated(x, weight)
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.shape[1] >= _MANY_CHANNELS
        and x.shape[-1] >= _SMALLEST_UPSAMPLED
    )


def is_differentiated(*tensors: Tensor | None) -> bool:
    """Return whether gradients reach what is computed from tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def winograd_pays(x: Tensor) -> bool:
    """Return whether `conv3x3` takes Winograd's algorithm for such a batch."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and min(x.shape[2:]) >= _SMALLEST
        and _HAS_NNPACK
    )


@torch.library.custom_op("styleclip::winograd3x3", mutates_args=())
def _winograd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve image by image; an operator of its own, since torch.compile knows none of NNPACK."""
    convolve = torch._nnpack_spatial_convolution
    images = [convolve(image[None], weight, bias, padding=1) for image in x]
    return images[0] if len(images) == 1 else torch.cat(images)


@_winograd.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ARG001
    return x.new_empty(len(x), len(weight), *x.shape[2:])


def _keep_weight(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(inputs[1])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    """Of a convolution with fixed kernels: another one, with them turned."""
    (weight,) = ctx.saved_tensors
    turned = weight.flip(2, 3).transpose(0, 1).contiguous()
    return conv3x3(gradient, turned), None, None


_winograd.register_autograd(_backward, setup_context=_keep_weight)
