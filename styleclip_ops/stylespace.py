"""The layout of the flat style code: which entry belongs to which layer of the generator.

S space is the concatenation, in synthesis order, of the style vectors that modulate every
convolution (Wu et al., "StyleSpace Analysis", CVPR 2021). This module is the only home of that
order; StyleCLIP edits all of it but the toRGB styles (StyleCLIP, section 6).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from styleclip_ops.errors import MAX_WIDTH, ConfigError, ShapeError, check_integers


@dataclass(frozen=True)
class StyleLayer:
    """One modulated convolution of the synthesis network.

    Attributes:
        name: The published name, for example `conv0_resolution_8` or `toRGB_resolution_8`.
        resolution: Output height and width in pixels.
        channels: Length of its style vector, the number of input channels of the convolution.
        start: First entry in the flat style code.
        w_index: Row of W+ that drives it.
        is_torgb: True for the 1x1 convolution that writes RGB.
    """

    name: str
    resolution: int
    channels: int
    start: int
    w_index: int
    is_torgb: bool

    @property
    def stop(self) -> int:
        """One past its last entry in the flat style code."""
        return self.start + self.channels

    @property
    def span(self) -> slice:
        """Its entries in the flat style code."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class StyleSpaceLayout:
    """The order of the flat style code of one generator.

    Attributes:
        layers: Every style layer in synthesis order: conv1 and toRGB at 4 px, then conv0 (which
            upsamples), conv1 and toRGB at each higher resolution.
    """

    layers: tuple[StyleLayer, ...]

    @classmethod
    def from_channels(cls, channels: Sequence[int]) -> "StyleSpaceLayout":
        """Compute the layout from the feature channels of a generator.

        Args:
            channels: Feature channels at 4, 8, 16, ... px, up to the image size.

        Raises:
            ConfigError: There are fewer than two resolutions or a width is not positive.
        """
        if not 2 <= len(channels) <= 9:
            raise ConfigError(
                f"channels: got {list(channels)}, expected widths at 4, 8, 16, ... px"
            )
        for width in channels:
            check_integers(1, MAX_WIDTH, channels=width)
        layers: list[StyleLayer] = []
        start = 0
        for block, inner in enumerate(channels):
            resolution = 4 << block
            rows = [("conv1", inner), ("toRGB", inner)]
            if block:
                rows.insert(0, ("conv0", channels[block - 1]))
            # A toRGB shares its row of W+ with the next block's first convolution.
            first_w = 2 * block - 1 if block else 0
            for offset, (kind, width) in enumerate(rows):
                layers.append(
                    StyleLayer(
                        name=f"{kind}_resolution_{resolution}",
                        resolution=resolution,
                        channels=width,
                        start=start,
                        w_index=first_w + offset,
                        is_torgb=kind == "toRGB",
                    )
                )
                start += width
        return cls(tuple(layers))

    @property
    def size(self) -> int:
        """Length of the flat style code: 9088 at 1024 px."""
        return self.layers[-1].stop

    @property
    def resolution(self) -> int:
        """Height and width of the generated image in pixels."""
        return self.layers[-1].resolution

    @property
    def channels(self) -> tuple[int, ...]:
        """Feature channels at 4, 8, 16, ... px."""
        return tuple(layer.channels for layer in self.layers if layer.is_torgb)

    @property
    def num_ws(self) -> int:
        """Rows of W+: 18 at 1024 px."""
        return self.layers[-1].w_index + 1

    @cached_property
    def editable(self) -> torch.Tensor:
        """Bool [size] on the processor: True outside toRGB (6048 entries at 1024 px)."""
        mask = torch.ones(self.size, dtype=torch.bool)
        for layer in self.layers:
            if layer.is_torgb:
                mask[layer.span] = False
        return mask

    @cached_property
    def editable_channels(self) -> torch.Tensor:
        """Int64 [number of editable entries]: their places in the flat style code, ascending."""
        return self.editable.nonzero().squeeze(1)

    def split(self, s: torch.Tensor) -> list[torch.Tensor]:
        """Split a flat style code [..., size] into one view [..., channels] a layer.

        Raises:
            ShapeError: The last axis is not `size` long.
        """
        if s.shape[-1] != self.size:
            raise ShapeError(
                f"style code: got shape {list(s.shape)}, expected [..., {self.size}] "
                f"for a {self.resolution} px generator"
            )
        return list(torch.split(s, [layer.channels for layer in self.layers], dim=-1))

    def join(self, styles: Sequence[torch.Tensor]) -> torch.Tensor:
        """Join one style vector [..., channels] a layer into the flat style code [..., size].

        Raises:
            ShapeError: The number of vectors or one of their lengths differs from the layout.
        """
        got = [style.shape[-1] for style in styles]
        expected = [layer.channels for layer in self.layers]
        if got != expected:
            raise ShapeError(f"style vectors: got lengths {got}, expected {expected}")
        return torch.cat(list(styles), dim=-1)
