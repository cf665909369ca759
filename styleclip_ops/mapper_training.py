"""Training of a latent mapper for one prompt (StyleCLIP, section 5, equation 3)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from styleclip_ops.clip import ImageEmbedder
from styleclip_ops.errors import ConfigError, check_shape
from styleclip_ops.generator import Generator
from styleclip_ops.losses import IdentityEmbedder, cosine_distance, require_identity
from styleclip_ops.mapper import FullStyleSpaceMapper, Mapper
from styleclip_ops.stylespace import StyleSpaceLayout


@dataclass(frozen=True)
class MapperLossConfig:
    """Weights of the mapper's loss; the defaults are the published ones.

    Attributes:
        clip_lambda: Weight of the CLIP distance to the prompt.
        id_lambda: Weight of the identity loss.
        l2_lambda: Weight of the mean squared distance to the source latent.
    """

    clip_lambda: float = 1.0
    id_lambda: float = 0.1
    l2_lambda: float = 0.8

    def __post_init__(self) -> None:
        for name in ("clip_lambda", "id_lambda", "l2_lambda"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name}: got {value}, expected 0 or more")


class MapperLoss(NamedTuple):
    """The loss of one batch: total and its unweighted terms, scalars."""

    total: Tensor
    identity: Tensor
    clip: Tensor
    l2: Tensor


class SourceBatch(NamedTuple):
    """Latents to learn from, with what the loss needs of their images.

    Attributes:
        latents: As for `mapper_loss`.
        identity: [N, D] identity embeddings of the unedited images.
    """

    latents: Tensor
    identity: Tensor


def mapper_loss(
    generator: Generator,
    clip: ImageEmbedder,
    mapper: Mapper,
    latents: Tensor,
    text_embedding: Tensor,
    config: MapperLossConfig,
    identity: IdentityEmbedder | None = None,
    source_identity: Tensor | None = None,
) -> MapperLoss:
    """Compute the loss of a mapper on a batch of latents (equation 3).

    Args:
        generator: The generator.
        clip: The image embedder.
        mapper: The mapper; its kind decides whether the latents are W+ or S.
        latents: W+ [N, num_ws, w_dim] or flat style codes [N, layout.size].
        text_embedding: [E] or [1, E], unit norm.
        config: The weights.
        identity: Needed where `config.id_lambda` is above 0.
        source_identity: [N, D] identity embeddings of the unedited images, where known; rendered
            and embedded otherwise.

    Returns:
        Differentiable scalars.

    Raises:
        ShapeError: A shape does not fit.
        ConfigError: An identity weight is set and no identity network is given.
    """
    in_style_space = isinstance(mapper, FullStyleSpaceMapper)
    render = generator.synthesize if in_style_space else generator.forward
    target = text_embedding if text_embedding.dim() > 1 else text_embedding[None]
    check_shape("text_embedding", target, (1, "E"))
    edited = mapper.edit(latents)
    images = render(edited)
    clip_term = cosine_distance(clip.embed_images(images), target).mean()
    identity_term = torch.zeros_like(clip_term)
    if config.id_lambda > 0:
        identity = require_identity(identity, config.id_lambda)
        if source_identity is None:
            with torch.no_grad():
                source_identity = identity.embed(render(latents))
        identity_term = cosine_distance(identity.embed(images), source_identity).mean()
    l2_term = (
        _style_space_distance(edited, latents, generator.layout)
        if in_style_space
        else F.mse_loss(edited, latents)
    )
    total = (
        config.id_lambda * identity_term
        + config.clip_lambda * clip_term
        + config.l2_lambda * l2_term
    )
    return MapperLoss(total, identity_term, clip_term, l2_term)


def train_mapper(
    generator: Generator,
    clip: ImageEmbedder,
    mapper: Mapper,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Tensor | SourceBatch] | Iterator[Tensor],
    text_embedding: Tensor,
    config: MapperLossConfig,
    identity: IdentityEmbedder | None = None,
) -> Iterator[MapperLoss]:
    """Train a mapper in place, one update for every batch of latents.

    The caller decides when to stop, to log and to save: the state is the mapper's and the
    optimizer's `state_dict`, and the position in `batches`.

    Args:
        generator: The generator; its weights stay as they are.
        clip: The image embedder.
        mapper: The mapper to train.
        optimizer: Over the mapper's parameters; `Ranger(mapper.parameters(), lr=0.5)` published.
        batches: Latents as for `mapper_loss`; the published batch is 2. With the identities of
            their images, where known, these are not rendered.
        text_embedding: [E] or [1, E], unit norm.
        config: The weights.
        identity: Needed where `config.id_lambda` is above 0.

    Yields:
        The loss of each batch before its update, detached.
    """
    parameters = [parameter for parameter in mapper.parameters() if parameter.requires_grad]
    for batch in batches:
        latents, sources = batch if isinstance(batch, SourceBatch) else (batch, None)
        loss = mapper_loss(
            generator, clip, mapper, latents, text_embedding, config, identity, sources
        )
        gradients = torch.autograd.grad(loss.total, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        yield MapperLoss(*(term.detach() for term in loss))


def _style_space_distance(a: Tensor, b: Tensor, layout: StyleSpaceLayout) -> Tensor:
    """Sum over the style layers of the mean squared difference, as published."""
    differences = layout.split((a - b).square())
    return torch.stack([difference.mean() for difference in differences]).sum()
