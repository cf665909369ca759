"""Scores of an edit, from embeddings of the source, its inversion and the edited image.

Embeddings have unit norm. A report names the networks that gave them, and does not judge an edit by
the CLIP that it was optimised for alone.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import special
from torch import Tensor

from styleclip_ops.errors import ConfigError, ShapeError, check_shape

# Fewer samples than features give a singular covariance, and fewer than this a biased distance.
_RELIABLE_SAMPLES = 10_000

_RESAMPLED_VALUES = 1_000_000


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Compute the cosine of embeddings [N, E] and [N, E] or [1, E]: [N], -1 to 1."""
    check_shape("a", a, ("N", "E"))
    if b.shape not in (a.shape, (1, a.shape[1])):
        raise ShapeError(f"b: got shape {list(b.shape)}, expected {list(a.shape)} or one row")
    # Rounding leaves that of equal embeddings a little beyond 1.
    return F.cosine_similarity(a, b, dim=1).clamp(-1, 1)


def clip_score(cosine: Tensor) -> Tensor:
    """Scale the cosine of image and text: 100 * max(cosine, 0) (Hessel et al., EMNLP 2021)."""
    return 100 * cosine.clamp(min=0)


def directional_similarity(
    source: Tensor, edited: Tensor, neutral_text: Tensor, target_text: Tensor
) -> Tensor:
    """Compare the direction of the image's change with the text's (Gal et al., StyleGAN-NADA).

    Args:
        source: [N, E] image embeddings before the edit.
        edited: [N, E] image embeddings after it.
        neutral_text: [N, E] or [1, E] embeddings of the neutral prompt.
        target_text: [N, E] or [1, E] embeddings of the target prompt.

    Returns:
        [N] cosine; NaN where the image or the text does not change, which has no direction.

    Raises:
        ShapeError: The shapes do not fit.
    """
    image_delta = F.normalize(edited, dim=1) - F.normalize(source, dim=1)
    text_delta = F.normalize(target_text, dim=1) - F.normalize(neutral_text, dim=1)
    cosine = cosine_similarity(image_delta, text_delta)
    vanishing = (image_delta.norm(dim=1) < 1e-6) | (text_delta.norm(dim=1) < 1e-6)
    return cosine.masked_fill(vanishing, torch.nan)


@dataclass(frozen=True)
class ImageEmbeddings:
    """What is known of N images.

    Attributes:
        clip: [N, E] unit norm.
        identity: [N, D] unit norm.
    """

    clip: Tensor
    identity: Tensor


class EditMetrics(NamedTuple):
    """Scores of N edits, [N] each.

    Attributes:
        clip_cosine: Edited image and target prompt.
        clip_score: 100 * max(clip_cosine, 0).
        directional_edit: Direction from the inversion to the edited image; NaN where it vanishes.
        directional_total: Direction from the source to the edited image; NaN where it vanishes.
        image_inversion: CLIP cosine of source and inversion: what the inversion lost.
        image_edit: CLIP cosine of inversion and edited image: what the edit changed.
        image_total: CLIP cosine of source and edited image.
        identity_inversion: Identity cosine of source and inversion.
        identity_edit: Identity cosine of inversion and edited image.
        identity_total: Identity cosine of source and edited image.
    """

    clip_cosine: Tensor
    clip_score: Tensor
    directional_edit: Tensor
    directional_total: Tensor
    image_inversion: Tensor
    image_edit: Tensor
    image_total: Tensor
    identity_inversion: Tensor
    identity_edit: Tensor
    identity_total: Tensor


def edit_metrics(
    source: ImageEmbeddings,
    inversion: ImageEmbeddings,
    edited: ImageEmbeddings,
    neutral_text: Tensor,
    target_text: Tensor,
) -> EditMetrics:
    """Score edits, with the share of the inversion and of the edit apart.

    Args:
        source: The aligned photographs.
        inversion: The generator's rendering of their latents, unedited.
        edited: The edited images.
        neutral_text: [N, E] or [1, E] embeddings of the neutral prompt.
        target_text: [N, E] or [1, E] embeddings of the target prompt.

    Raises:
        ShapeError: The shapes do not fit.
    """
    cosine = cosine_similarity(edited.clip, target_text)
    texts = (neutral_text, target_text)
    return EditMetrics(
        clip_cosine=cosine,
        clip_score=clip_score(cosine),
        directional_edit=directional_similarity(inversion.clip, edited.clip, *texts),
        directional_total=directional_similarity(source.clip, edited.clip, *texts),
        image_inversion=cosine_similarity(source.clip, inversion.clip),
        image_edit=cosine_similarity(inversion.clip, edited.clip),
        image_total=cosine_similarity(source.clip, edited.clip),
        identity_inversion=cosine_similarity(source.identity, inversion.identity),
        identity_edit=cosine_similarity(inversion.identity, edited.identity),
        identity_total=cosine_similarity(source.identity, edited.identity),
    )


class FrechetDistance(NamedTuple):
    """A Fréchet distance and how far to trust it.

    Attributes:
        value: The distance, 0 for equal moments.
        num_samples: The smaller of the two sample counts.
        reliable: False below 10,000 samples or as many as there are features; the value is then
            biased upwards and comparable only at the same count.
    """

    value: float
    num_samples: int
    reliable: bool


def frechet_distance(features_a: Tensor, features_b: Tensor) -> FrechetDistance:
    """Compare two sets of images by the moments of their features (Heusel et al., NeurIPS 2017).

    With the pool features of the published Inception network this is FID.

    Args:
        features_a: [N, D].
        features_b: [M, D].

    Raises:
        ShapeError: The features have other shapes.
        ConfigError: A set has fewer than two samples.
    """
    check_shape("features_a", features_a, ("N", "D"))
    check_shape("features_b", features_b, ("M", features_a.shape[1]))
    count = min(len(features_a), len(features_b))
    if count < 2:
        raise ConfigError(f"features: got {count} samples in a set, expected at least 2")
    a, b = features_a.double(), features_b.double()
    mean_term = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    covariance_a, covariance_b = _covariance(a), _covariance(b)
    # tr sqrt(AB) = tr sqrt(sqrt(A) B sqrt(A)), whose argument is symmetric.
    root = _symmetric_root(covariance_a)
    cross = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp(min=0).sqrt().sum()
    value = mean_term + covariance_a.trace() + covariance_b.trace() - 2 * cross
    reliable = count >= max(_RELIABLE_SAMPLES, a.shape[1] + 1)
    return FrechetDistance(max(value.item(), 0.0), count, reliable)


def _covariance(features: Tensor) -> Tensor:
    centered = features - features.mean(dim=0)
    return centered.t() @ centered / (len(features) - 1)


def _symmetric_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.t()
    return root


class Interval(NamedTuple):
    """A mean and its bootstrap confidence interval; the ends are NaN where one value has none."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: Tensor, confidence: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> Interval:
    """Estimate how far the mean of a score depends on the sample (Efron, 1979; percentile method).

    Of few values resamples differ too little (Hesterberg, The American Statistician 69, 2015,
    section 5), so the interval is wider by as much as Student's is than the normal one's.

    Args:
        values: [N] scores; NaN entries do not count.
        confidence: Between 0 and 1.
        num_resamples: Bootstrap samples.
        seed: Seed of the resampling.

    Raises:
        ConfigError: No value is left, or a parameter is outside its range.
    """
    check_shape("values", values, ("N",))
    if not 0 < confidence < 1 or num_resamples < 1:
        raise ConfigError(
            f"confidence: got {confidence} with {num_resamples} resamples, expected 0 to 1 and >= 1"
        )
    known = values[~values.isnan()].double().cpu().numpy()
    if not len(known):
        raise ConfigError("values: got no number, expected at least one that is not NaN")
    if len(known) < 2:
        return Interval(float(known[0]), math.nan, math.nan)
    random = np.random.default_rng(seed)
    # Many resamples at a time, in bounded memory; the numbers drawn are the same.
    rows = max(1, _RESAMPLED_VALUES // len(known))
    counts = [min(rows, num_resamples - start) for start in range(0, num_resamples, rows)]
    resamples = (random.choice(known, (count, len(known))) for count in counts)
    means = np.concatenate([resample.mean(axis=1) for resample in resamples])
    tail = (1 - confidence) / 2
    mean, ends = known.mean(), np.quantile(means, [tail, 1 - tail])
    low, high = mean + (ends - mean) * _widening(len(known), 1 - tail)
    return Interval(float(mean), float(low), float(high))


def _widening(count: int, quantile: float) -> float:
    """How much too narrow a bootstrap interval of the mean of so many values is."""
    # Resamples have the variance of the sample about its own mean.
    narrow = math.sqrt((count - 1) / count)
    return float(special.stdtrit(count - 1, quantile) / special.ndtri(quantile)) / narrow
