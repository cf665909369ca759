"""The loss terms that the optimizer and the mapper share (StyleCLIP, sections 4 and 5)."""

from typing import Protocol

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
