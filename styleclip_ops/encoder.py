"""The e4e encoder (Tov et al., "Designing an Encoder for StyleGAN Image Manipulation", 2021)."""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from styleclip_ops.errors import MAX_WIDTH, ConfigError, check_integers, check_shape
from styleclip_ops.ir_se import IrSeConfig, residual_units, stem
from styleclip_ops.layers import EqualizedLinear

# The first rows of W+ read the coarsest feature map, the next the middle one, the rest the finest.
_COARSE_ROWS = 3
_MIDDLE_ROWS = 7


@dataclass(frozen=True)
class E4eConfig:
    """The architecture of an e4e encoder; the defaults are the published one for 1024 px.

    Attributes:
        num_ws: Rows of W+ of the generator it inverts.
        w_dim: Length of one row.
        input_size: Height and width of the images it reads, a power of two from 32 px.
        trunk: The residual network below the style heads.
    """

    num_ws: int = 18
    w_dim: int = 512
    input_size: int = 256
    trunk: IrSeConfig = field(default_factory=IrSeConfig)

    def __post_init__(self) -> None:
        size = self.input_size
        check_integers(32, 4096, input_size=size)
        if size & (size - 1):
            raise ConfigError(f"input_size: got {size}, expected a power of two from 32")
        check_integers(1, 18, num_ws=self.num_ws)
        check_integers(1, MAX_WIDTH, w_dim=self.w_dim)


class StyleHead(nn.Module):
    """Strided convolutions down to one pixel, then a linear map to one row of W+."""

    def __init__(self, channels: int, w_dim: int, size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(int(math.log2(size))):
            layers += [nn.Conv2d(channels, channels, 3, 2, 1), nn.LeakyReLU(0.01)]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualizedLinear(channels, w_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map features [N, channels, size, size] to rows [N, w_dim]."""
        row: Tensor = self.linear(self.convs(x).flatten(1))
        return row


class E4eEncoder(nn.Module):
    """Photograph -> W+: one base latent for all rows, and an offset from it for each.

    Args:
        config: The architecture. `latent_avg` [num_ws, w_dim] is added to the prediction.
    """

    latent_avg: Tensor

    def __init__(self, config: E4eConfig) -> None:
        super().__init__()
        self.config = config
        trunk = config.trunk
        width = trunk.widths[3]
        self.input_layer = stem(trunk.widths[0])
        self.body = residual_units(trunk)
        self.styles = nn.ModuleList(
            StyleHead(width, config.w_dim, config.input_size // self._reduction(row))
            for row in range(config.num_ws)
        )
        self.latlayer1 = nn.Conv2d(trunk.widths[2], width, 1)
        self.latlayer2 = nn.Conv2d(trunk.widths[1], width, 1)
        self.register_buffer("latent_avg", torch.zeros(config.num_ws, config.w_dim))

    @staticmethod
    def _reduction(row: int) -> int:
        return 16 if row < _COARSE_ROWS else 8 if row < _MIDDLE_ROWS else 4

    def features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the outputs of the last three stages, at 1/4, 1/8 and 1/16 of the input size."""
        depths = self.config.trunk.depths
        x = self.body[: depths[0]](self.input_layer(images))
        taps = []
        start = depths[0]
        for depth in depths[1:]:
            x = self.body[start : start + depth](x)
            start += depth
            taps.append(x)
        fine, middle, coarse = taps
        return fine, middle, coarse

    def offsets(self, images: Tensor) -> Tensor:
        """Predict W+ [N, num_ws, w_dim] relative to the average latent."""
        size = self.config.input_size
        check_shape("images", images, ("N", 3, size, size))
        fine, middle, coarse = self.features(images)
        middle = _upsample_to(coarse, middle) + self.latlayer1(middle)
        fine = _upsample_to(middle, fine) + self.latlayer2(fine)
        base = self.styles[0](coarse)
        rows = [base]
        for row in range(1, self.config.num_ws):
            source = coarse if row < _COARSE_ROWS else middle if row < _MIDDLE_ROWS else fine
            rows.append(base + self.styles[row](source))
        return torch.stack(rows, dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Invert aligned photographs.

        Args:
            images: [N, 3, input_size, input_size] in [-1, 1]. The published encoder was trained
                on 256 px crops reduced with an antialiased bilinear filter.

        Returns:
            W+ [N, num_ws, w_dim], the average latent included.

        Raises:
            ShapeError: The images have another shape.
        """
        return self.offsets(images) + self.latent_avg


def _upsample_to(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)
