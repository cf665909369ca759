"""The three methods on the demo models, each at several strengths."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from demo.train.agreement import NEUTRAL_PROMPT
from demo.train.randomness import step_generator
from demo.train.reconstruction import draw_latents
from demo.train.wishes import AttributeTeller, Sight, Wish, look
from styleclip_ops.clip import ImageEmbedder, TextEmbedder
from styleclip_ops.direction import apply_direction, style_direction, text_direction
from styleclip_ops.generator import Generator
from styleclip_ops.losses import IdentityEmbedder, cosine_distance
from styleclip_ops.mapper import LevelsMapper
from styleclip_ops.mapper_training import MapperLossConfig, train_mapper
from styleclip_ops.optimize import OptimizeConfig, optimize_latents
from styleclip_ops.ranger import Ranger
from styleclip_ops.relevance import RelevanceMode, channel_clip_directions
from styleclip_ops.style_statistics import sample_style_codes, style_statistics
from styleclip_ops.warm_start import RandomFaces, prompt_offset

# Latents that are optimised at a time.
_DESCENTS = 16


@dataclass(frozen=True)
class Optimization:
    """How latents are optimised.

    Attributes:
        descent: Steps and weights.
        from_samples: Whether it starts where random faces fit the prompt, see
            `styleclip_ops.warm_start`.
    """

    descent: OptimizeConfig
    from_samples: bool


@dataclass(frozen=True)
class EditConfig:
    """How the methods are tried.

    Attributes:
        relevance_mode, relevance_step: See `styleclip_ops.relevance`.
        relevance_samples: Faces that a channel's CLIP direction is the mean over.
        statistics_samples: Style codes that deviations are measured on.
        num_channels, global_alphas: Settings of global directions, all combinations.
        mapper_steps, mapper_batch, mapper_rate: Training of a mapper.
        mapper_loss: Losses to train a mapper with each. Their weights set how far an edit goes: as
            the paper chooses them for each edit (sections 4 and 5), they belong to the strength.
        mapper_alphas: Multiples of its offset.
        optimize: Optimizations; the same holds for their weights and where they start.
        optimize_alphas: Multiples of the offset that they find.
        seed: Of what is drawn at random.
    """

    relevance_mode: RelevanceMode = "fast"
    relevance_step: float = 5.0
    relevance_samples: int = 128
    statistics_samples: int = 10_000
    num_channels: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    global_alphas: tuple[float, ...] = (2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0)
    mapper_steps: int = 400
    mapper_batch: int = 4
    # The gradients of the demo models are below Ranger's eps, which makes its steps small.
    mapper_rate: float = 200.0
    # Their CLIP lets a mapper change much else unless the identity holds it.
    mapper_loss: tuple[MapperLossConfig, ...] = (
        MapperLossConfig(id_lambda=0.4, l2_lambda=0.1),
        MapperLossConfig(id_lambda=0.2, l2_lambda=0.05),
    )
    mapper_alphas: tuple[float, ...] = (0.4, 0.5, 0.6, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0)
    # Weaker, the L2 term of the published settings leaves all but the prompt to chance. The last
    # starts from the face itself, as published.
    optimize: tuple[Optimization, ...] = (
        Optimization(OptimizeConfig(steps=80, l2_lambda=0.015), from_samples=True),
        Optimization(OptimizeConfig(steps=80, l2_lambda=0.015, id_lambda=0.2), from_samples=True),
        Optimization(OptimizeConfig(steps=80, l2_lambda=0.015), from_samples=False),
    )
    optimize_alphas: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
    seed: int = 0


class Embedder(ImageEmbedder, TextEmbedder, Protocol):
    """Both towers of a CLIP."""


@dataclass(frozen=True)
class EditModels:
    """Hold the networks of an edit and of its judgement, all on one device."""

    generator: Generator
    clip: Embedder
    identity: IdentityEmbedder
    probe: AttributeTeller


@dataclass(frozen=True)
class Faces:
    """Hold N faces before their edits.

    Attributes:
        w_plus: [N, num_ws, w_dim].
        pictures: [N, 3, size, size] in [-1, 1], as the generator draws them.
        sight: What the probe sees in them.
        persons: [N, D] identity embeddings.
    """

    w_plus: Tensor
    pictures: Tensor
    sight: Sight
    persons: Tensor


@dataclass(frozen=True)
class Setting:
    """Name a strength.

    Attributes:
        alpha: Multiple of the edit.
        num_channels: Of a global direction.
        l2_lambda, id_lambda: Weights of an optimization, or of the loss of a mapper.
        from_samples: Where an optimization starts.
    """

    alpha: float
    num_channels: int | None = None
    l2_lambda: float | None = None
    id_lambda: float | None = None
    from_samples: bool = False

    def __str__(self) -> str:
        words = [f"alpha {self.alpha:g}"]
        if self.num_channels is not None:
            words.append(f"{self.num_channels} channels")
        if self.l2_lambda is not None:
            words.append(f"L2 {self.l2_lambda:g}")
        if self.id_lambda:
            words.append(f"identity {self.id_lambda:g}")
        if self.from_samples:
            words.append("from samples")
        return ", ".join(words)

    def is_like(self, other: "Setting") -> bool:
        """Whether another differs in alpha alone."""
        return replace(self, alpha=other.alpha) == other


@dataclass(frozen=True)
class EditFigures:
    """Hold means over edited pictures.

    Attributes:
        success: Share of pictures in which the probe sees what was wished.
        changed: Share of the other attributes that changed.
        identity: Cosine of the identity embeddings before and after.
    """

    success: float
    changed: float
    identity: float


@dataclass(frozen=True)
class DirectionAsset:
    """Hold what global directions need, once for all prompts.

    Attributes:
        channel_clip_directions: [C, E] of the editable channels.
        channel_std: [layout.size].
    """

    channel_clip_directions: Tensor
    channel_std: Tensor


# A strength with the pictures [N, 3, size, size] that it gives.
Edits = Iterator[tuple[Setting, Tensor]]


def measure_directions(models: EditModels, config: EditConfig) -> DirectionAsset:
    """Measure the CLIP direction of every editable channel."""
    generator = models.generator
    std = style_statistics(generator, config.statistics_samples, seed=config.seed).std
    samples = sample_style_codes(generator, config.relevance_samples, seed=config.seed + 1)
    directions = channel_clip_directions(
        generator,
        models.clip,
        torch.cat([*samples]),
        std,
        step=config.relevance_step,
        mode=config.relevance_mode,
        batch_size=64,
    )
    return DirectionAsset(directions, std)


@torch.no_grad()
def edit_globally(
    models: EditModels, asset: DirectionAsset, prompt: str, w_plus: Tensor, config: EditConfig
) -> Edits:
    """Edit latents [N, num_ws, w_dim] along the global direction of a prompt."""
    generator = models.generator
    delta_t = text_direction(models.clip, NEUTRAL_PROMPT, prompt)
    s = generator.w_plus_to_s(w_plus)
    for num_channels in config.num_channels:
        direction = style_direction(
            asset.channel_clip_directions,
            delta_t,
            asset.channel_std,
            generator.layout,
            num_channels=num_channels,
        )
        for alpha in config.global_alphas:
            edited = apply_direction(s, direction, alpha)
            parts = [generator.synthesize(part).clamp(-1, 1) for part in torch.split(edited, 32)]
            yield Setting(alpha, num_channels), torch.cat(parts)


def edit_by_mapper(models: EditModels, prompt: str, w_plus: Tensor, config: EditConfig) -> Edits:
    """Edit latents [N, num_ws, w_dim] with mappers that are trained for the prompt here."""
    generator, text = models.generator, models.clip.embed_texts([prompt])
    for loss in config.mapper_loss:
        torch.manual_seed(config.seed)
        mapper = LevelsMapper(w_dim=generator.config.w_dim).to(w_plus.device)
        training = train_mapper(
            generator,
            models.clip,
            mapper,
            Ranger(mapper.parameters(), lr=config.mapper_rate),
            _mapper_batches(generator, config),
            text,
            loss,
            models.identity,
        )
        for _ in training:
            pass
        with torch.no_grad():
            for alpha in config.mapper_alphas:
                setting = Setting(alpha, l2_lambda=loss.l2_lambda, id_lambda=loss.id_lambda)
                yield setting, draw_latents(generator, mapper.edit(w_plus, alpha))


def edit_by_optimization(
    models: EditModels, faces: RandomFaces, prompt: str, w_plus: Tensor, config: EditConfig
) -> Edits:
    """Edit latents [N, num_ws, w_dim], each by an optimization of its own.

    Args:
        models: The networks.
        faces: What some start from.
        prompt: The target.
        w_plus: The latents.
        config: How.
    """
    text = models.clip.embed_texts([prompt])
    warm = w_plus + prompt_offset(faces, text[0])
    for one in config.optimize:
        weights = one.descent
        identity = models.identity if weights.id_lambda else None
        starts = torch.split(warm if one.from_samples else w_plus, _DESCENTS)
        found = torch.cat(
            [
                optimize_latents(
                    models.generator, models.clip, part, text, weights, identity, start=start
                )
                for part, start in zip(torch.split(w_plus, _DESCENTS), starts, strict=True)
            ]
        )
        for alpha in config.optimize_alphas:
            setting = Setting(
                alpha,
                l2_lambda=weights.l2_lambda,
                id_lambda=weights.id_lambda,
                from_samples=one.from_samples,
            )
            yield setting, draw_latents(models.generator, torch.lerp(w_plus, found, alpha))


@torch.no_grad()
def judge_edits(models: EditModels, wish: Wish, before: Faces, edited: Tensor) -> EditFigures:
    """Judge edits of faces.

    Args:
        models: The networks.
        wish: What was asked for.
        before: The faces before.
        edited: [N, 3, size, size] pictures of them after.
    """
    after = look(models.probe, edited)
    distance = cosine_distance(models.identity.embed(edited), before.persons)
    return EditFigures(
        success=float(wish.granted(after).float().mean()),
        changed=float(wish.side_effects(before.sight, after).mean()),
        identity=1 - float(distance.mean()),
    )


def _mapper_batches(generator: Generator, config: EditConfig) -> Iterator[Tensor]:
    for step in range(config.mapper_steps):
        draw = step_generator(config.seed, step)
        z = torch.randn(config.mapper_batch, generator.config.z_dim, generator=draw)
        yield generator.w_to_w_plus(generator.mapping(z.to(generator.w_avg)))
