"""The loss terms that the optimizer and the mapper share (StyleCLIP, sections 4 and 5)."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from styleclip_ops.errors import ConfigError, ShapeError


class IdentityEmbedder(Protocol):
    """What the identity loss needs: aligned images [N, 3, R, R] in [-1, 1] -> unit [N, D]."""

    def embed(self, images: Tensor) -> Tensor:
        """Embed faces, differentiably."""


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - <a, b> of unit vectors [N, E] and [N or 1, E]: [N], 0 to 2.

    The published CLIP loss is 1 - logits / 100, the same for the published logit scale of 100.

    Raises:
        ShapeError: The embeddings come from different networks.
    """
    if a.shape[-1] != b.shape[-1]:
        raise ShapeError(f"embeddings: got lengths {a.shape[-1]} and {b.shape[-1]}, expected one")
    return 1 - (a * b).sum(dim=-1)


def require_identity(identity: IdentityEmbedder | None, id_lambda: float) -> IdentityEmbedder:
    """Check that the network of an identity loss is there.

    Raises:
        ConfigError: It is not.
    """
    if identity is None:
        raise ConfigError(
            f"identity: got none with id_lambda={id_lambda}, expected an identity network; "
            "set id_lambda=0 to do without"
        )
    return identity


class SourceIdentities:
    """The identity embeddings of unedited images, each computed when it is first asked for.

    Every image is rendered and embedded by itself: its embedding does not depend on which others
    were asked for together with it, to the last bit.

    Args:
        identity: The network.
        render: Renders the image [1, 3, R, R] of a row number.
    """

    def __init__(self, identity: IdentityEmbedder, render: Callable[[int], Tensor]) -> None:
        self._identity, self._render = identity, render
        self._known: dict[int, Tensor] = {}

    def of(self, rows: list[int]) -> Tensor:
        """Return the embeddings [len(rows), D] of some rows."""
        with torch.no_grad():
            for row in rows:
                if row not in self._known:
                    self._known[row] = self._identity.embed(self._render(row))[0]
        return torch.stack([self._known[row] for row in rows])
