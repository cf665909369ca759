"""The smallest strength: found where it is, also where scores are not monotone."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from styleclip_ops.errors import ConfigError
from styleclip_ops.metrics import EditMetrics, Interval
from styleclip_ops.strength import (
    StrengthPoint,
    StrengthTarget,
    limit_of_strengths,
    nearest_strength,
    search_strengths,
    smallest_strength,
    strength_point,
)

TARGET = StrengthTarget(directional=0.3, identity=0.6, gain=0.05)
GRID = (1.0, 2.0, 4.0, 8.0)


def point(alpha: float, directional: float, identity: float, gain: float = 1.0) -> StrengthPoint:
    means = (Interval(mean, mean, mean) for mean in (directional, identity, gain))
    return StrengthPoint(alpha, *means, 0.0, 4)


def rising(alpha: float) -> StrengthPoint:
    """Reaches the direction at 3.2 and loses the identity at 6."""
    return point(alpha, 0.3 * alpha / 3.2, 0.9 - 0.05 * alpha)


def test_the_smallest_strength_is_bracketed_by_halving():
    points = search_strengths(rising, GRID, TARGET, bisections=6)
    assert [p.alpha for p in points] == sorted({p.alpha for p in points})
    assert len(points) == len(GRID) + 6
    found = smallest_strength(points, TARGET)
    assert 3.2 <= found.alpha <= 3.2 + 2 / 2**6
    assert limit_of_strengths(points, TARGET) == ""


def test_a_strength_between_two_of_the_grid_is_found_where_the_grid_has_none():
    # At 4 it goes far enough and has lost the identity, at 2 the other way round.
    def narrow(alpha: float) -> StrengthPoint:
        return point(alpha, 0.1 * alpha, 0.95 - 0.1 * alpha)

    points = search_strengths(narrow, GRID, TARGET, bisections=4)
    assert not any(narrow(alpha).reaches(TARGET) for alpha in GRID)
    assert 3.0 <= smallest_strength(points, TARGET).alpha <= 3.5


@given(st.dictionaries(st.sampled_from(GRID), st.tuples(st.floats(0, 1), st.floats(0, 1))))
def test_what_is_found_was_scored_and_reaches_the_target_whatever_the_scores(scores):
    def rough(alpha: float) -> StrengthPoint:
        return point(alpha, *scores.get(alpha, (math.sin(alpha) ** 2, math.cos(3 * alpha) ** 2)))

    points = search_strengths(rough, GRID, TARGET)
    found = smallest_strength(points, TARGET)
    reaching = [p for p in points if p.reaches(TARGET)]
    assert found == (reaching[0] if reaching else None)
    assert bool(limit_of_strengths(points, TARGET)) == (found is None)
    assert nearest_strength(points, TARGET) in points


def test_the_first_strength_of_the_grid_is_the_least_that_is_tried():
    points = search_strengths(lambda alpha: point(alpha, 0.9, 0.9), GRID, TARGET)
    assert [p.alpha for p in points] == [*GRID]
    assert smallest_strength(points, TARGET).alpha == 1.0


@pytest.mark.parametrize(
    ("score", "best", "limit"),
    [
        (lambda a: point(a, 0.02 * a, 0.9), 8.0, r"directional: it is 0.160 at most \(alpha 8\)"),
        (lambda a: point(a, 0.4, 0.9, 0.001 * a), 8.0, r"gain: it is 0.008 at most \(alpha 8\)"),
        (lambda a: point(a, 0.4, 0.5 / a), 1.0, r"identity: where .* 0.500 at most \(alpha 1\)"),
        (lambda a: point(a, 0.4 / a, 0.9, 0.02 * a), 1.0, "at other strengths"),
    ],
)
def test_what_limits_a_target_is_said_with_what_comes_nearest(score, best, limit):
    points = [score(alpha) for alpha in GRID]
    assert smallest_strength(points, TARGET) is None
    assert nearest_strength(points, TARGET).alpha == best
    assert re.search(limit, limit_of_strengths(points, TARGET))


def test_an_image_that_does_not_change_or_is_nan_reaches_nothing():
    scores = EditMetrics(*torch.zeros(10, 3))._replace(
        directional_edit=torch.tensor([0.6, math.nan, 0.6]),
        identity_edit=torch.tensor([0.9, 0.9, math.nan]),
        clip_cosine=torch.tensor([0.3, 0.3, math.nan]),
    )
    found = strength_point(2.0, scores, torch.full((3,), 0.2), TARGET)
    assert found.directional.mean == pytest.approx(0.4)
    assert found.identity.mean == pytest.approx(0.8 / 3)
    assert found.gain.mean == pytest.approx((0.1 + 0.1 - 1) / 3)
    assert (found.share, found.num_images) == (pytest.approx(1 / 3), 3)


@pytest.mark.parametrize("alphas", [(), (2.0, 1.0), (0.0, 1.0), (-1.0, 1.0), (1.0, math.inf)])
def test_a_grid_ascends_from_above_zero(alphas):
    with pytest.raises(ConfigError, match="expected at least one, ascending from above 0"):
        search_strengths(rising, alphas, TARGET)


@pytest.mark.parametrize("values", [{"identity": 1.5}, {"gain": math.nan}, {"directional": -2}])
def test_a_target_is_in_range(values):
    with pytest.raises(ConfigError, match=f"{next(iter(values))}: got .*, expected -"):
        StrengthTarget(**values)
