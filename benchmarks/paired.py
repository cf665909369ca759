"""Paired timing: two procedures in turn, so that a machine's drift cancels in their ratio."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tasks.memory import keep_freed_memory, set_malloc


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
    same_memory: bool = False,
) -> Ratio:
    """Time two procedures in turn, after one warm-up each where they are not warm.

    Ours runs as the pipeline does, with freed memory kept (`tasks.memory`); a published procedure
    as it comes; a limit, and what is ours, with the same memory.
    """
    own, other_memory = keep_freed_memory, keep_freed_memory if same_memory else as_glibc_comes
    if not warm:
        seconds_of(ours, own)
        seconds_of(theirs, other_memory)
    ratios, seconds = [], []
    for _ in range(pairs):
        mine, other = seconds_of(ours, own), seconds_of(theirs, other_memory)
        ratios.append(other / mine)
        seconds.append(mine)
    return median_of(name, ratios, statistics.median(seconds))


def median_of(name: str, ratios: Sequence[float], ours_s: float = 0.0) -> Ratio:
    """Return the median and the range of ratios, with our seconds where they say something."""
    return Ratio(name, statistics.median(ratios), min(ratios), max(ratios), ours_s)


def as_glibc_comes() -> None:
    """Set what glibc comes to by itself once a block of 32 MB was freed."""
    set_malloc(trim_threshold=64 << 20, mmap_max=65536)


def seconds_of(
    run: Callable[[], object], memory: Callable[[], object] = keep_freed_memory
) -> float:
    """Time a call, after `memory` has set what becomes of freed memory."""
    memory()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
