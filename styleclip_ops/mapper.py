"""The latent mapper: a small network that edits any latent for one prompt (StyleCLIP, section 5).

Module and parameter names are those of the published checkpoints, `course_mapping` included.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from styleclip_ops.errors import MAX_WIDTH, ConfigError, check_integers, check_shape
from styleclip_ops.layers import EqualizedLinear, normalize_2nd_moment
from styleclip_ops.stylespace import StyleLayer, StyleSpaceLayout

# The published code adds a tenth of the network's output.
EDIT_SCALE = 0.1

# Rows of W+ of the coarse, medium and fine level.
_LEVELS = (slice(0, 4), slice(4, 8), slice(8, None))


class _PixelNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return normalize_2nd_moment(x)


class MappingMlp(nn.Module):
    """Pixel norm and four equalised fully connected layers.

    The norm is over axis 1, as published: for W+ rows [N, L, w_dim] that is over the L rows,
    each of the w_dim entries by itself; for a style vector [N, C] it is over its channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_integers(1, MAX_WIDTH, dim=dim)
        layers = [EqualizedLinear(dim, dim, lr_multiplier=0.01, activate=True) for _ in range(4)]
        self.mapping = nn.Sequential(_PixelNorm(), *layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, L, dim] or [N, dim] to the same shape."""
        y: Tensor = self.mapping(x)
        return y


class Mapper(nn.Module):
    """What all mappers share: the forward pass gives the raw offset, `edit` applies it."""

    def edit(self, latents: Tensor, strength: float = 1.0) -> Tensor:
        """Apply the edit: latents + strength * 0.1 * M(latents).

        Args:
            latents: W+ [N, num_ws, w_dim] or flat style codes [N, layout.size], as the mapper
                was trained on.
            strength: 1 is the published edit, 0 the identity.

        Returns:
            Edited latents of the same shape.

        Raises:
            ShapeError: The latents have another shape.
        """
        offset: Tensor = self(latents)
        return latents + (EDIT_SCALE * strength) * offset


class LevelsMapper(Mapper):
    """One network each for the coarse, medium and fine rows of W+; a level can be left out.

    Args:
        coarse: Edit rows 0 to 3.
        medium: Edit rows 4 to 7.
        fine: Edit rows 8 and above.
        w_dim: Length of one row.
    """

    def __init__(
        self, coarse: bool = True, medium: bool = True, fine: bool = True, w_dim: int = 512
    ) -> None:
        super().__init__()
        if not (coarse or medium or fine):
            raise ConfigError("levels: got none, expected at least one of coarse, medium, fine")
        self.levels = (coarse, medium, fine)
        self.w_dim = w_dim
        names = ("course_mapping", "medium_mapping", "fine_mapping")
        self._networks = [
            name if used else None for name, used in zip(names, self.levels, strict=True)
        ]
        for name in self._networks:
            if name:
                self.add_module(name, MappingMlp(w_dim))

    def forward(self, w_plus: Tensor) -> Tensor:
        """Predict the offset [N, num_ws, w_dim]; zeros in a level that is left out."""
        check_shape("w_plus", w_plus, ("N", "num_ws", self.w_dim))
        parts = []
        for name, rows in zip(self._networks, _LEVELS, strict=True):
            x = w_plus[:, rows]
            parts.append(self.get_submodule(name)(x) if name else torch.zeros_like(x))
        return torch.cat(parts, dim=1)


class SingleMapper(Mapper):
    """One network for all rows of W+ together.

    Args:
        w_dim: Length of one row.
    """

    def __init__(self, w_dim: int = 512) -> None:
        super().__init__()
        self.w_dim = w_dim
        self.mapping = MappingMlp(w_dim)

    def edit(self, latents: Tensor, strength: float = 1.0) -> Tensor:
        """Apply the edit to W+ [N, num_ws, w_dim]; see `Mapper.edit`."""
        # Without this a single [18, 512] latent would pass for 18 w.
        check_shape("w_plus", latents, ("N", "num_ws", self.w_dim))
        return super().edit(latents, strength)

    def forward(self, w_plus: Tensor) -> Tensor:
        """Predict the offset [N, num_ws, w_dim], or [N, w_dim] for w."""
        if w_plus.dim() != 2:
            check_shape("w_plus", w_plus, ("N", "num_ws", self.w_dim))
        offset: Tensor = self.mapping(w_plus)
        return offset


class FullStyleSpaceMapper(Mapper):
    """One network for every style vector of S.

    Args:
        layout: The style space of the generator.
    """

    def __init__(self, layout: StyleSpaceLayout) -> None:
        super().__init__()
        self.layout = layout
        for index, layer in self._edited_layers():
            self.add_module(f"mapper_{index}", MappingMlp(layer.channels))

    def _edited_layers(self) -> Iterator[tuple[int, StyleLayer]]:
        yield from enumerate(self.layout.layers)

    def forward(self, s: Tensor) -> Tensor:
        """Predict the offset [N, layout.size]; zeros in layers that are not edited."""
        check_shape("s", s, ("N", self.layout.size))
        offset = torch.zeros_like(s)
        for index, layer in self._edited_layers():
            offset[:, layer.span] = self.get_submodule(f"mapper_{index}")(s[:, layer.span])
        return offset


class WithoutToRGBStyleSpaceMapper(FullStyleSpaceMapper):
    """One network for every style vector of S but those of toRGB."""

    def _edited_layers(self) -> Iterator[tuple[int, StyleLayer]]:
        return ((i, layer) for i, layer in enumerate(self.layout.layers) if not layer.is_torgb)
