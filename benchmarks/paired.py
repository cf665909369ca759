"""Paired timing: two procedures in turn, so that a machine's drift cancels in their ratio."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """How many times faster ours is than another procedure.

    Attributes:
        name: What was compared.
        median: Median over the pairs of (their time / our time).
        low: Smallest of the pairs.
        high: Largest of the pairs.
        ours_s: Median of our seconds on this machine, this run.
    """

    name: str
    median: float
    low: float
    high: float
    ours_s: float


def compare(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    pairs: int = 5,
    *,
    warm: bool = False,
) -> Ratio:
    """Time two procedures in turn, after one warm-up each where they are not warm."""
    if not warm:
        ours()
        theirs()
    ratios, seconds = [], []
    for _ in range(pairs):
        mine, other = seconds_of(ours), seconds_of(theirs)
        ratios.append(other / mine)
        seconds.append(mine)
    return median_of(name, ratios, statistics.median(seconds))


def median_of(name: str, ratios: Sequence[float], ours_s: float = 0.0) -> Ratio:
    """Return the median and the range of ratios, with our seconds where they say something."""
    return Ratio(name, statistics.median(ratios), min(ratios), max(ratios), ours_s)


def seconds_of(run: Callable[[], object]) -> float:
    """Time a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
