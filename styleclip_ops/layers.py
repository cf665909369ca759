"""Layers that the generator, the encoder and the mappers share."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def normalize_2nd_moment(x: Tensor, dim: int = 1) -> Tensor:
    """Scale to unit mean square along one axis ("pixel norm" of the StyleGAN papers)."""
    return x * (x.square().mean(dim=dim, keepdim=True) + 1e-8).rsqrt()


class EqualizedLinear(nn.Module):
    """Fully connected layer with an equalised learning rate (Karras et al., ICLR 2018, 4.1).

    Args:
        in_features: Length of the input.
        out_features: Length of the output.
        lr_multiplier: Factor on weight and bias at run time.
        activate: Apply leaky ReLU 0.2 and a gain of sqrt(2).
        bias_init: Initial value of the bias.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        lr_multiplier: float = 1.0,
        activate: bool = False,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in_features] to [..., out_features]."""
        x = F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)
        return F.leaky_relu(x, 0.2) * math.sqrt(2.0) if self.activate else x


def filter_after_upsampling(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Low-pass the output [N, C, 2r+1, 2r+1] of a stride-2 transposed convolution.

    The filter is the outer product of [1, 3, 3, 1] / 8 with a gain of 4; the result is
    [N, C, 2r, 2r], to which a bias [C] is added.
    """
    channels = x.shape[1]
    taps = x.new_tensor([0.25, 0.75, 0.75, 0.25])
    x = F.conv2d(
        x, taps.view(1, 1, 4, 1).expand(channels, 1, 4, 1), padding=(1, 0), groups=channels
    )
    return F.conv2d(
        x, taps.view(1, 1, 1, 4).expand(channels, 1, 1, 4), bias, padding=(0, 1), groups=channels
    )


def upsample_image(image: Tensor) -> Tensor:
    """Double the size of an image [N, C, r, r] with the [1, 3, 3, 1] filter."""
    channels = image.shape[1]
    taps = image.new_tensor([0.25, 0.75, 0.75, 0.25])
    kernel = torch.outer(taps, taps).expand(channels, 1, 4, 4)
    return F.conv_transpose2d(image, kernel, stride=2, padding=1, groups=channels)
