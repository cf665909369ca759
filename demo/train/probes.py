"""Attribute probes: one small network that tells every attribute of a portrait."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.portraits.attributes import RATES
from demo.train.files import replacing
from styleclip_ops.checkpoint_files import fill, read_own, reading, skeleton, write_own

_KIND = "probe"


def _rated_options() -> dict[str, tuple[str, ...]]:
    return {name: tuple(rates) for name, rates in RATES.items()}


@dataclass(frozen=True)
class ProbeConfig:
    """The architecture of a probe.

    Attributes:
        size: Side of the pictures it sees, pixels; others are resized.
        widths: Channels at a half, a quarter, ... of the side.
        num_features: Features that all attributes are told by.
        options: Options of each attribute, in the order of the logits.
    """

    size: int = 64
    widths: tuple[int, ...] = (24, 48, 96, 128)
    num_features: int = 128
    options: Mapping[str, tuple[str, ...]] = field(default_factory=_rated_options)


class Probe(nn.Module):
    """Portraits -> attributes: a convolutional trunk and a linear head for each attribute.

    Args:
        config: The architecture.
    """

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__()
        self.config = config
        stages = [_convolution(3, config.widths[0], 5, 2)]
        for below, width in zip(config.widths, config.widths[1:], strict=False):
            down, along = _convolution(below, width, 3, 2), _convolution(width, width, 3, 1)
            stages.append(nn.Sequential(*down, *along))
        self.stages = nn.ModuleList(stages)
        area = (config.size >> len(config.widths)) ** 2
        self.gather = nn.Sequential(
            nn.Flatten(),
            nn.Linear(config.widths[-1] * area, config.num_features, bias=False),
            nn.BatchNorm1d(config.num_features),
            nn.LeakyReLU(0.1),
        )
        self.heads = nn.ModuleDict(
            {
                name: nn.Linear(config.num_features, len(options))
                for name, options in config.options.items()
            }
        )

    def features(self, images: Tensor) -> Tensor:
        """Describe images.

        Args:
            images: [N, 3, R, R] in [-1, 1], FFHQ-aligned, any size.

        Returns:
            [N, num_features], differentiable: a space for Fréchet distances.
        """
        x = _resized(images, self.config.size).contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            x = stage(x)
        features: Tensor = self.gather(x)
        return features

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the logits [N, options] of each attribute of images [N, 3, R, R] in [-1, 1]."""
        features = self.features(images)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> dict[str, Tensor]:
        """Return the probability [N, options] of each attribute's options, were all as common."""
        return {name: logits.softmax(dim=1) for name, logits in self(images).items()}

    @torch.no_grad()
    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Return the index [N] of each attribute's option, in the order of `config.options`."""
        return {name: logits.argmax(dim=1) for name, logits in self(images).items()}


def save_probe(probe: Probe, path: Path) -> None:
    """Write a probe as safetensors in half precision."""
    config = asdict(probe.config)
    weights = probe.state_dict().items()
    tensors = {n: t.half() if t.is_floating_point() else t for n, t in weights}
    with replacing(path) as part, part.open("wb") as file:
        write_own(file, _KIND, config, tensors)


def load_probe(path: Path) -> Probe:
    """Read what `save_probe` wrote: in evaluation mode, float32, without gradients.

    Raises:
        CheckpointError: The file is truncated or holds something else.
    """
    with reading(path) as file:
        tensors, config = read_own(file, _KIND)
        options = {name: tuple(values) for name, values in config.pop("options").items()}
        widths = tuple(config.pop("widths"))
        built = ProbeConfig(**config, widths=widths, options=options)
        return fill(skeleton(lambda: Probe(built)), tensors)


def _convolution(below: int, width: int, side: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(below, width, side, stride, side // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(0.1),
    )


def _resized(images: Tensor, size: int) -> Tensor:
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)
