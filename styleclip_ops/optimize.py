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
from styleclip_ops.losses import (
    IdentityEmbedder,
    SourceIdentities,
    cosine_distance,
    require_identity,
)
from styleclip_ops.lots import fill_up

OptimizeMode = Literal["best", "published"]

_RAMP_UP = 0.05
_RAMP_DOWN = 0.25
# A smoothed loss that falls by less than this below its lowest stands still.
_PROGRESS = 1e-3
_SMOOTHING = 0.9
# Adam as torch has it.
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class OptimizeConfig:
    """How latents are optimised; the rates and weights are the published ones.

    Attributes:
        steps: Updates; 300 published, 40 suffice for small edits.
        lr: Peak learning rate.
        l2_lambda: Weight of the squared distance to the latent that it starts from, summed over its
            entries.
        id_lambda: Weight of the identity loss; 0 in the published script, 0.005 in its notebook.
        mode: `best` returns, for each image, the latent whose rendering had the lowest total loss
            (the one after the last update is not rendered); `published` returns that last one.
        patience: An image whose loss, smoothed, stood still for so many steps has converged: its
            learning rate ramps down over a third of the steps that it took, or twice as many as
            these, and it is finished. 0 makes all steps for every image, as published; so does the
            mode `published`.
    """

    steps: int = 300
    lr: float = 0.1
    l2_lambda: float = 0.008
    id_lambda: float = 0.0
    mode: OptimizeMode = "best"
    patience: int = 20

    def __post_init__(self) -> None:
        check_integers(1, 1_000_000, steps=self.steps)
        check_integers(0, 1_000_000, patience=self.patience)
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f"lr: got {self.lr}, expected a positive number")
        for name, value in (("l2_lambda", self.l2_lambda), ("id_lambda", self.id_lambda)):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name}: got {value}, expected 0 or more")
        if self.mode not in ("best", "published"):
            raise ConfigError(f"mode: got {self.mode!r}, expected best or published")


class OptimizeLoss(NamedTuple):
    """The loss of every image at one step, [N] each: total and its unweighted terms.

    NaN for images that wait or are finished.
    """

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
    return _rate(step, config, config.steps * (1 - _RAMP_DOWN), config.steps)


def _rate(step: int, config: OptimizeConfig, down: float, end: float) -> float:
    """The learning rate where it ramps down from step `down` to step `end`."""
    rest = min(1.0, (end - step) / (end - down))
    up = min(1.0, step / config.steps / _RAMP_UP)
    return config.lr * (0.5 - 0.5 * math.cos(math.pi * rest)) * up


def optimize_latents(
    generator: Generator,
    clip: ImageEmbedder,
    w_plus: Tensor,
    text_embeddings: Tensor,
    config: OptimizeConfig,
    identity: IdentityEmbedder | None = None,
    *,
    start: Tensor | None = None,
    batch_size: int | None = None,
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
        start: [N, num_ws, w_dim] latents to start from, see `styleclip_ops.warm_start`; `w_plus`
            where None. The L2 term holds latents near these, the identity term near the source.
        batch_size: Images at work at a time; one that is finished makes room for the next. A step
            is filled up to as many, so that the result is the same to the last bit whatever the
            other images are. All where None, fewer as they finish.
        on_step: Called with the step number and the losses before each update.

    Returns:
        [N, num_ws, w_dim] edited latents.

    Raises:
        ShapeError: A shape does not fit the generator or the batch.
        ConfigError: An identity weight is set and no identity network is given.
    """
    check_shape("w_plus", w_plus, ("N", generator.num_ws, generator.config.w_dim))
    if start is not None:
        check_shape("start", start, tuple(w_plus.shape))
    objective = _Objective(
        lambda latents, _: generator(latents),
        clip,
        identity,
        w_plus,
        _targets(text_embeddings, len(w_plus)),
        config,
        start,
    )
    return _descend(objective, batch_size, on_step)


def optimize_style_codes(
    generator: Generator,
    clip: ImageEmbedder,
    s: Tensor,
    text_embeddings: Tensor,
    config: OptimizeConfig,
    identity: IdentityEmbedder | None = None,
    *,
    start: Tensor | None = None,
    batch_size: int | None = None,
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
        start: [N, layout.size] style codes to start from, see `optimize_latents`.
        batch_size: See `optimize_latents`.
        on_step: See `optimize_latents`.

    Returns:
        [N, layout.size] edited style codes.

    Raises:
        ShapeError: A shape does not fit the generator or the batch.
        ConfigError: An identity weight is set and no identity network is given.
    """
    layout = generator.layout
    check_shape("s", s, ("N", layout.size))
    if start is not None:
        check_shape("start", start, tuple(s.shape))
    editable = layout.editable_channels.to(s.device)

    def render(values: Tensor, rows: Tensor) -> Tensor:
        return generator.synthesize(s[rows].index_copy(1, editable, values))

    objective = _Objective(
        render,
        clip,
        identity,
        s[:, editable],
        _targets(text_embeddings, len(s)),
        config,
        None if start is None else start[:, editable],
    )
    return s.index_copy(1, editable, _descend(objective, batch_size, on_step))


def _targets(text_embeddings: Tensor, batch: int) -> Tensor:
    targets = text_embeddings if text_embeddings.dim() > 1 else text_embeddings[None]
    if targets.dim() != 2 or len(targets) not in (1, batch):
        raise ShapeError(
            f"text_embeddings: got shape {list(text_embeddings.shape)}, expected [E], [1, E] or "
            f"[{batch}, E] for {batch} images"
        )
    return targets.detach().expand(batch, -1)


class _Objective:
    """The loss of equation 1 of some rows as a function of what is optimised."""

    def __init__(
        self,
        render: Callable[[Tensor, Tensor], Tensor],
        clip: ImageEmbedder,
        identity: IdentityEmbedder | None,
        source: Tensor,
        targets: Tensor,
        config: OptimizeConfig,
        start: Tensor | None = None,
    ) -> None:
        self.render = render
        self.clip = clip
        self.source = source.detach()
        self.start = self.source if start is None else start.detach()
        self.targets = targets
        self.config = config
        self.identity: IdentityEmbedder | None = None
        if config.id_lambda > 0:
            self.identity = require_identity(identity, config.id_lambda)
            self.sources = SourceIdentities(self.identity, self._render_source)

    def __call__(self, latents: Tensor, rows: Tensor) -> OptimizeLoss:
        images = self.render(latents, rows)
        clip = cosine_distance(self.clip.embed_images(images), self.targets[rows])
        l2 = (latents - self.start[rows]).square().flatten(1).sum(dim=1)
        identity = torch.zeros_like(clip)
        if self.identity is not None:
            identity = cosine_distance(self.identity.embed(images), self.sources.of(rows.tolist()))
        total = clip + self.config.l2_lambda * l2 + self.config.id_lambda * identity
        return OptimizeLoss(total, clip, l2, identity)

    def _render_source(self, row: int) -> Tensor:
        rows = torch.tensor([row], device=self.source.device)
        return self.render(self.source[rows], rows)


class _Work(NamedTuple):
    """Rows at work: their numbers [A], latents, Adam's moments, and where each of them is.

    The learning rate ramps down from step `down` to step `end`. `level` is the smoothed loss,
    `mark` the lowest smoothed loss of the checks that are made every `patience` steps.
    """

    rows: Tensor
    latents: Tensor
    mean: Tensor
    square: Tensor
    step: Tensor
    down: Tensor
    end: Tensor
    best_loss: Tensor
    level: Tensor
    mark: Tensor

    def keep(self, which: Tensor) -> "_Work":
        return _Work(*(value[which] for value in self))

    def join(self, other: "_Work") -> "_Work":
        return _Work(*map(torch.cat, zip(self, other, strict=True)))


@torch.enable_grad()
def _descend(objective: _Objective, batch_size: int | None, on_step: OnStep | None) -> Tensor:
    """Minimise an objective with Adam from its start; one row never touches another."""
    config, found = objective.config, objective.start.clone()
    count = len(found)
    room = count if batch_size is None else batch_size
    if room < 1 and count:
        raise ConfigError(f"batch_size: got {batch_size}, expected 1 or more")
    begun, passes = min(room, count), 0
    work = _begin(objective, 0, begun)
    while len(work.rows):
        latents, loss, gradient = _look(objective, work, batch_size or len(work.rows))
        if on_step is not None:
            everywhere = (torch.full((count,), math.nan).to(term) for term in loss)
            terms = zip(everywhere, loss, strict=True)
            on_step(passes, OptimizeLoss(*(full.index_copy(0, work.rows, t) for full, t in terms)))
        if config.mode == "best":
            better = loss.total < work.best_loss
            found[work.rows[better]] = latents[better]
        work = _update(work._replace(latents=latents), gradient, loss.total, config)
        going = work.step < work.end
        if config.mode == "published":
            found[work.rows[~going]] = work.latents[~going]
        if not going.all():
            work = work.keep(going)
            more = min(room - len(work.rows), count - begun)
            if more:
                work, begun = work.join(_begin(objective, begun, begun + more)), begun + more
        passes += 1
    return found


def _look(objective: _Objective, work: _Work, lot: int) -> tuple[Tensor, OptimizeLoss, Tensor]:
    """The latents of the rows at work, their losses and gradients, computed for a whole lot."""
    count = len(work.rows)
    filled = fill_up(count, lot)
    latents = work.latents[filled].requires_grad_()
    loss = objective(latents, work.rows[filled])
    (gradient,) = torch.autograd.grad(loss.total.sum(), latents)
    terms = OptimizeLoss(*(term.detach()[:count] for term in loss))
    return latents.detach()[:count], terms, gradient[:count]


def _begin(objective: _Objective, first: int, stop: int) -> _Work:
    latents = objective.start[first:stop].clone()
    rows = torch.arange(first, stop, device=latents.device)
    loss = torch.full((len(rows),), math.inf, device=latents.device)
    moments = torch.zeros_like(latents), torch.zeros_like(latents)
    end = torch.full_like(rows, objective.config.steps)
    down = end * (1 - _RAMP_DOWN)
    return _Work(rows, latents, *moments, torch.zeros_like(rows), down, end, loss, loss, loss)


def _update(work: _Work, gradient: Tensor, loss: Tensor, config: OptimizeConfig) -> _Work:
    """Make one step of Adam in every row, at the rate of that row, and see which have converged."""
    step = work.step + 1
    mean = work.mean.lerp(gradient, 1 - _BETA1)
    square = work.square.mul(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
    places = zip(work.step.tolist(), work.down.tolist(), work.end.tolist(), strict=True)
    rates = [_rate(place, config, down, end) for place, down, end in places]
    shape = (-1, *(1 for _ in gradient.shape[1:]))
    count = step.double()
    rate = (torch.tensor(rates).to(count) / (1 - _BETA1**count)).to(gradient).view(shape)
    correction = (1 - _BETA2**count).sqrt().to(gradient).view(shape)
    latents = work.latents - rate * mean / (square.sqrt() / correction + _EPSILON)
    best_loss = torch.minimum(work.best_loss, loss)
    level = work.level.to(loss).lerp(loss, 1 - _SMOOTHING)
    level = torch.where(work.step == 0, loss, level)
    down, end, mark = work.down, work.end, work.mark
    if config.mode == "best" and config.patience:
        look = (step % config.patience == 0) & (step <= down)
        last = step + torch.clamp((step * _RAMP_DOWN / (1 - _RAMP_DOWN)), min=2 * config.patience)
        converged = look & (mark - level < _PROGRESS) & (last < end)
        down = torch.where(converged, step.to(down), down)
        end = torch.where(converged, last.long(), end)
        mark = torch.where(look, torch.minimum(mark, level), mark)
    return _Work(work.rows, latents, mean, square, step, down, end, best_loss, level, mark)
