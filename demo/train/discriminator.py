"""The residual discriminator of StyleGAN2 (Karras et al., CVPR 2020), with average pooling."""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from styleclip_ops.layers import EqualizedLinear


class EqualizedConv(nn.Module):
    """Convolution with an equalised learning rate, leaky ReLU and gain, any size kept."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.gain = 1 / math.sqrt(in_channels * kernel**2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, I, r, r] to [N, O, r, r]."""
        padding = self.weight.shape[-1] // 2
        x = F.conv2d(x, self.weight * self.gain, self.bias, padding=padding)
        return F.leaky_relu(x, 0.2) * math.sqrt(2.0)


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip; halves the resolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv0 = EqualizedConv(in_channels, in_channels, 3)
        self.conv1 = EqualizedConv(in_channels, out_channels, 3)
        self.skip = EqualizedConv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, I, r, r] to [N, O, r / 2, r / 2]."""
        y: Tensor = F.avg_pool2d(self.conv1(self.conv0(x)), 2)
        y = y + self.skip(F.avg_pool2d(x, 2))
        return y * math.sqrt(0.5)


class Discriminator(nn.Module):
    """Judge pictures.

    Args:
        channels: Widths at 4, 8, ... px up to the size of the pictures, as a generator's.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        widths = [*reversed(channels)]
        self.from_rgb = EqualizedConv(3, widths[0], 1)
        self.blocks = nn.Sequential(*(ResidualBlock(a, b) for a, b in itertools.pairwise(widths)))
        self.last = EqualizedConv(widths[-1] + 1, widths[-1], 3)
        self.hidden = EqualizedLinear(widths[-1] * 16, widths[-1], activate=True)
        self.score = EqualizedLinear(widths[-1], 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures [N, 3, size, size] in [-1, 1] to scores [N], high for renders."""
        x = self.blocks(self.from_rgb(pictures))
        x = self.last(torch.cat([x, _batch_spread(x)], dim=1))
        score: Tensor = self.score(self.hidden(x.flatten(1)))
        return score[:, 0]


def _batch_spread(x: Tensor) -> Tensor:
    """Mean deviation over the batch, as a further channel [N, 1, r, r] (Karras et al., 2018)."""
    spread = (x.float().var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
    return spread.to(x.dtype).expand(len(x), 1, *x.shape[2:])
