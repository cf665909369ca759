"""Strengths: the smallest alpha whose edits go the way of the text, far enough, and keep the face.

How an edit scores over alpha is monotone only roughly: the further one goes, the more CLIP's cosine
to the target rises and the more identity is lost, but the directional similarity is a cosine, which
says where a change points and not how far it goes. It is often highest for edits that nobody sees.
So a target asks for a gain as well, a grid is scored before anything is refined, and the smallest
strength is the smallest of those that were scored.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from styleclip_ops.errors import ConfigError, check_integers
from styleclip_ops.metrics import EditMetrics, Interval, bootstrap_interval

# Of an edit that goes the way of the text, and of one that keeps the face.
LEAST_DIRECTIONAL, LEAST_IDENTITY = 0.1, 0.5
_RESAMPLES = 1_000


@dataclass(frozen=True)
class StrengthTarget:
    """What the edits of a set of images have to reach in the mean.

    Attributes:
        directional: Least `directional_edit`, -1 to 1.
        identity: Least `identity_edit`, -1 to 1.
        gain: Least rise of the CLIP cosine of image and target prompt, -2 to 2.

    Raises:
        ConfigError: A value is outside its range.
    """

    directional: float = LEAST_DIRECTIONAL
    identity: float = LEAST_IDENTITY
    gain: float = 0.01

    def __post_init__(self) -> None:
        for name, widest in (("directional", 1), ("identity", 1), ("gain", 2)):
            value = getattr(self, name)
            if not -widest <= value <= widest:
                raise ConfigError(f"{name}: got {value}, expected -{widest} to {widest}")


class StrengthPoint(NamedTuple):
    """How the edits of a set of images score at one strength: means with intervals.

    Attributes:
        alpha: The strength.
        directional: Change of image and text; an image that does not change counts as 0.
        identity: Inversion and edited image.
        gain: Rise of the CLIP cosine to the target prompt.
        share: Of the images that reach the target one by one, 0 to 1.
        num_images: Images.
    """

    alpha: float
    directional: Interval
    identity: Interval
    gain: Interval
    share: float
    num_images: int

    def goes_far(self, target: StrengthTarget) -> bool:
        """Return whether the edits go the way of the text, and far enough."""
        return self.directional.mean >= target.directional and self.gain.mean >= target.gain

    def reaches(self, target: StrengthTarget) -> bool:
        """Return whether they do so and keep the identity."""
        return self.goes_far(target) and self.identity.mean >= target.identity


def strength_point(
    alpha: float, scores: EditMetrics, clip_cosine_inversion: Tensor, target: StrengthTarget
) -> StrengthPoint:
    """Sum up the scores of N edits of one strength.

    Args:
        alpha: The strength.
        scores: [N] each.
        clip_cosine_inversion: [N] CLIP cosine of inversion and target prompt: before the edit.
        target: What an image has to reach.
    """
    # No change has no direction; an image of NaN has lost everything.
    directional = scores.directional_edit.nan_to_num(0.0)
    identity = scores.identity_edit.nan_to_num(-1.0)
    gain = (scores.clip_cosine - clip_cosine_inversion).nan_to_num(-1.0)
    reached = directional >= target.directional
    reached &= (gain >= target.gain) & (identity >= target.identity)
    return StrengthPoint(
        alpha,
        bootstrap_interval(directional, num_resamples=_RESAMPLES),
        bootstrap_interval(identity, num_resamples=_RESAMPLES),
        bootstrap_interval(gain, num_resamples=_RESAMPLES),
        float(reached.double().mean()),
        len(identity),
    )


def search_strengths(
    score: Callable[[float], StrengthPoint],
    alphas: Sequence[float],
    target: StrengthTarget,
    bisections: int = 4,
) -> list[StrengthPoint]:
    """Score a grid of strengths, and halve the interval below the first that reaches a target.

    Where none does, the interval is halved in which edits begin to go far enough: identity may
    still be kept at its lower end. Nothing below the first strength of the grid is tried.

    Args:
        score: Scores one strength.
        alphas: The grid, above 0 and ascending.
        target: What is to be reached.
        bisections: Halvings.

    Returns:
        All that were scored, by ascending strength.

    Raises:
        ConfigError: The grid is empty, or not ascending from above 0.
    """
    check_integers(0, 32, bisections=bisections)
    grid = [*alphas]
    if not grid or grid != sorted(set(grid)) or not (grid[0] > 0 and math.isfinite(grid[-1])):
        raise ConfigError(f"alphas: got {grid}, expected at least one, ascending from above 0")
    points = [score(alpha) for alpha in grid]
    found = any(point.reaches(target) for point in points)
    ends = [place for place, p in enumerate(points) if _is_end(p, target, found)]
    if not ends or ends[0] == 0:
        return points
    low, high = grid[ends[0] - 1], grid[ends[0]]
    for _ in range(bisections):
        point = score(float(f"{(low + high) / 2:.6g}"))
        points.append(point)
        found = found or point.reaches(target)
        low, high = (low, point.alpha) if _is_end(point, target, found) else (point.alpha, high)
    return sorted(points)


def smallest_strength(
    points: Sequence[StrengthPoint], target: StrengthTarget
) -> StrengthPoint | None:
    """Return the smallest strength that reaches a target, None where none does."""
    return min((point for point in points if point.reaches(target)), default=None)


def nearest_strength(points: Sequence[StrengthPoint], target: StrengthTarget) -> StrengthPoint:
    """Return what comes next to a target that is not reached.

    The strength that goes furthest the way of the text among those that keep the identity; where
    none does, the one that keeps it best.
    """
    kept = [point for point in points if point.identity.mean >= target.identity]
    if not kept:
        return max(points, key=lambda point: point.identity.mean)
    lacks = {
        point: max(target.directional - point.directional.mean, 0)
        + max(target.gain - point.gain.mean, 0)
        for point in kept
    }
    return min(kept, key=lambda point: (lacks[point], point.alpha))


def limit_of_strengths(points: Sequence[StrengthPoint], target: StrengthTarget) -> str:
    """Say in words why no strength reaches a target; empty where one does."""
    if any(point.reaches(target) for point in points):
        return ""
    far = [point for point in points if point.goes_far(target)]
    if far:
        kept = max(far, key=lambda point: point.identity.mean)
        return (
            f"identity: where edits go far enough it is {kept.identity.mean:.3f} at most "
            f"(alpha {kept.alpha:g}), expected at least {target.identity:g}"
        )
    lacking = []
    for name in ("directional", "gain"):
        best = max(points, key=lambda point: float(getattr(point, name).mean))
        most, wanted = getattr(best, name).mean, getattr(target, name)
        if most < wanted:
            at = f"(alpha {best.alpha:g})"
            lacking.append(f"{name}: it is {most:.3f} at most {at}, expected at least {wanted:g}")
    return "; ".join(lacking) or "directional and gain: each is reached, but at other strengths"


def _is_end(point: StrengthPoint, target: StrengthTarget, found: bool) -> bool:
    """Whether a point is the upper end of the interval to halve."""
    return point.reaches(target) if found else point.goes_far(target)


def join_scores(parts: Sequence[EditMetrics]) -> EditMetrics:
    """Join the scores of several batches."""
    return EditMetrics(*(torch.cat([*values]) for values in zip(*parts, strict=True)))
