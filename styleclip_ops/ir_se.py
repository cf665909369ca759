"""The improved residual network with squeeze-and-excitation that e4e and ArcFace share.

Deng et al., "ArcFace", CVPR 2019 (residual unit); Hu et al., CVPR 2018 (squeeze-and-excitation).
Parameter names are those of the published checkpoints.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from styleclip_ops.errors import MAX_WIDTH, ConfigError, check_integers

_REDUCTION = 16


@dataclass(frozen=True)
class IrSeConfig:
    """The architecture of the trunk; the defaults are IR-SE50.

    Attributes:
        depths: Residual units in each of the four stages; the first unit of a stage halves the
            height and width.
        widths: Output channels of each stage; the stem has those of the first.
    """

    depths: tuple[int, int, int, int] = (3, 4, 14, 3)
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)

    def __post_init__(self) -> None:
        if len(self.depths) != 4 or len(self.widths) != 4:
            raise ConfigError(
                f"IR-SE: got depths {self.depths}, widths {self.widths}, expected four stages"
            )
        for depth, width in zip(self.depths, self.widths, strict=True):
            check_integers(1, 100, depth=depth)
            check_integers(_REDUCTION, MAX_WIDTH, width=width)


class SqueezeExcitation(nn.Module):
    """Scale every channel by a gate computed from all channel means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // _REDUCTION, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // _REDUCTION, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Gate features [N, channels, H, W]."""
        gate = self.fc1(x.mean(dim=(2, 3), keepdim=True)).relu()
        gated: Tensor = x * self.fc2(gate).sigmoid()
        return gated


class ResidualUnit(nn.Module):
    """BN, conv, PReLU, conv, BN, squeeze-and-excitation, plus the shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if in_channels == channels:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            SqueezeExcitation(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in_channels, H, W] to [N, channels, H / stride, W / stride]."""
        y: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return y


def stem(width: int) -> nn.Sequential:
    """Build the 3x3 convolution, batch norm and PReLU that read the image."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
    )


def residual_units(config: IrSeConfig) -> nn.Sequential:
    """Build all residual units of the four stages in one sequence."""
    units = []
    below = config.widths[0]
    for depth, width in zip(config.depths, config.widths, strict=True):
        for index in range(depth):
            units.append(ResidualUnit(below, width, stride=1 if index else 2))
            below = width
    return nn.Sequential(*units)
