"""Latent optimization: one latent for one image and prompt, by gradient descent (section 4)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from styleclip_ops.clip import ImageEmbedder
from styleclip_ops.errors import ConfigError, ShapeError, check_integers, check_shape
from styleclip_ops.generator import Generator
from styleclip_ops.losses import IdentityEmbedder, cosine_distance, require_identity

OptimizeMode = Literal["best", "published"]

_RAMP_UP = 0.05
_RAMP_DOWN = 0.25


@dataclass(frozen=True)
class OptimizeConfig:
    """How latents are optimised; the defaults are the published ones.

    Attributes:
        steps: Updates; 300 published, 40 suffice for small edits.
        lr: Peak learning rate.
        l2_lambda: Weight of the squared distance to the source latent, summed over its entries.
        id_lambda: Weight of the identity loss; 0 in the published script, 0.005 in its notebook.
        mode: `best` returns, for each image, the latent whose rendering had the lowest total loss
            (the one after the last update is not rendered); `published` returns that last one.
    """

    steps: int = 300
    lr: float = 0.1
    l2_lambda: float = 0.008
    id_lambda: float = 0.0
    mode: OptimizeMode = "best"

    def __post_init__(self) -> None:
        check_integers(1, 1_000_000, steps=self.steps)
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f"lr: got {self.lr}, expected a positive number")
        for name, value in (("l2_lambda", self.l2_lambda), ("id_lambda", self.id_lambda)):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name}: got {value}, expected 0 or more")
        if self.mode not in ("best", "published"):
            raise ConfigError(f"mode: got {self.mode!r}, expected best or published")


class OptimizeLoss(NamedTuple):
    """The loss of every image at one step, [N] each: total and its unweighted terms."""

    total: Tensor
    clip: Tensor
    l2: Tensor
    identity: Tensor


OnStep = Callable[[int, OptimizeLoss], None]


def learning_rate(step: int, config: OptimizeConfig) -> float:
    """Ramp the learning rate up over the first 5 % of the steps and down over the last 25 %.

    Args:
        step: 0 to `config.steps` - 1; step 0 has rate 0.
        config: Gives the number of steps and the peak.
    """
    t = step / config.steps
    down = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1.0 - t) / _RAMP_DOWN))
    return config.lr * down * min(1.0, t / _RAMP_UP)


def optimize_latents(
    generator: Generator,
    clip: ImageEmbedder,
    w_plus: Tensor,
    text_embeddings: Tensor,
    config: OptimizeConfig,
    identity: IdentityEmbedder | None = None,
    *,
    on_step: OnStep | None = None,
) -> Tensor:
    """Optimise W+ latents towards text embeddings (section 4, equation 1).

    Images of a batch do not influence each other.

    Args:
        generator: The generator.
        clip: The image embedder.
        w_plus: [N, num_ws, w_dim] latents of the source images.
        text_embeddings: [N, E] one target for each image, or [1, E] or [E] for all; unit norm.
        config: Steps, weights, mode.
        identity: Needed where `config.id_lambda` is above 0.
        on_step: Called with the step number and the losses before each update.

    Returns:
        [N, num_ws, w_dim] edited latents.

    Raises:
        ShapeError: A shape does not fit the generator or the batch.
        ConfigError: An identity weight is set and no identity network is given.
    """
    check_shape("w_plus", w_plus, ("N", generator.num_ws, generator.config.w_dim))
    objective = _Objective(
        generator.forward, clip, identity, w_plus, _targets(text_embeddings, len(w_plus)), config
    )
    return _descend(objective, on_step)


def optimize_style_codes(
    generator: Generator,
    clip: ImageEmbedder,
    s: Tensor,
    text_embeddings: Tensor,
    config: OptimizeConfig,
    identity: IdentityEmbedder | None = None,
    *,
    on_step: OnStep | None = None,
) -> Tensor:
    """Optimise style codes towards text embeddings; toRGB styles stay as they are.

    Args:
        generator: The generator.
        clip: The image embedder.
        s: [N, layout.size] style codes of the source images.
        text_embeddings: See `optimize_latents`.
        config: See `optimize_latents`.
        identity: See `optimize_latents`.
        on_step: See `optimize_latents`.

    Returns:
        [N, layout.size] edited style codes.

    Raises:
        ShapeError: A shape does not fit the generator or the batch.
        ConfigError: An identity weight is set and no identity network is given.
    """
    layout = generator.layout
    check_shape("s", s, ("N", layout.size))
    editable = layout.editable_channels.to(s.device)

    def render(values: Tensor) -> Tensor:
        return generator.synthesize(s.index_copy(1, editable, values))

    start = s[:, editable]
    objective = _Objective(render, clip, identity, start, _targets(text_embeddings, len(s)), config)
    return s.index_copy(1, editable, _descend(objective, on_step))


def _targets(text_embeddings: Tensor, batch: int) -> Tensor:
    targets = text_embeddings if text_embeddings.dim() > 1 else text_embeddings[None]
    if targets.dim() != 2 or len(targets) not in (1, batch):
        raise ShapeError(
            f"text_embeddings: got shape {list(text_embeddings.shape)}, expected [E], [1, E] or "
            f"[{batch}, E] for {batch} images"
        )
    return targets.detach()


class _Objective:
    """The loss of equation 1 as a function of what is optimised."""

    def __init__(
        self,
        render: Callable[[Tensor], Tensor],
        clip: ImageEmbedder,
        identity: IdentityEmbedder | None,
        start: Tensor,
        targets: Tensor,
        config: OptimizeConfig,
    ) -> None:
        self.render = render
        self.clip = clip
        self.start = start.detach()
        self.targets = targets
        self.config = config
        self.identity: IdentityEmbedder | None = None
        if config.id_lambda > 0:
            self.identity = require_identity(identity, config.id_lambda)
            with torch.no_grad():
                self.source_identity = self.identity.embed(render(self.start))

    def __call__(self, latents: Tensor) -> OptimizeLoss:
        images = self.render(latents)
        clip = cosine_distance(self.clip.embed_images(images), self.targets)
        l2 = (latents - self.start).square().flatten(1).sum(dim=1)
        identity = torch.zeros_like(clip)
        if self.identity is not None:
            identity = cosine_distance(self.identity.embed(images), self.source_identity)
        total = clip + self.config.l2_lambda * l2 + self.config.id_lambda * identity
        return OptimizeLoss(total, clip, l2, identity)


@torch.enable_grad()
def _descend(objective: _Objective, on_step: OnStep | None) -> Tensor:
    """Minimise an objective with Adam from its start; one row never touches another."""
    config = objective.config
    latents = objective.start.clone().requires_grad_()
    best = objective.start.clone()
    best_loss = torch.full((len(best),), math.inf, device=best.device)
    optimizer = torch.optim.Adam([latents], lr=config.lr)
    for step in range(config.steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step, config)
        loss = objective(latents)
        (latents.grad,) = torch.autograd.grad(loss.total.sum(), latents)
        total = loss.total.detach()
        better = total < best_loss
        best[better] = latents.detach()[better]
        best_loss = torch.where(better, total, best_loss)
        if on_step is not None:
            on_step(step, OptimizeLoss(*(term.detach() for term in loss)))
        optimizer.step()
    return best if config.mode == "best" else latents.detach()
