"""Paired timing: two procedures in turn, so that a machine's drift cancels in their ratio."""

import ctypes
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from tasks.memory import MMAP_MAX, TRIM_THRESHOLD, keep_freed_memory

_MMAP_THRESHOLD = -3
# What glibc comes to by itself once a block of 32 MB was freed.
_USUAL = {TRIM_THRESHOLD: 64 << 20, _MMAP_THRESHOLD: 32 << 20, MMAP_MAX: 65536}


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
    keep_freed_memory()
    if not warm:
        ours()
        theirs()
    ratios, seconds = [], []
    for _ in range(pairs):
        mine = seconds_of(ours)
        if same_memory:
            other = seconds_of(theirs)
        else:
            with memory_as_it_comes():
                other = seconds_of(theirs)
            # What was given back comes again, once for a process.
            ours()
        ratios.append(other / mine)
        seconds.append(mine)
    return median_of(name, ratios, statistics.median(seconds))


def median_of(name: str, ratios: Sequence[float], ours_s: float = 0.0) -> Ratio:
    """Return the median and the range of ratios, with our seconds where they say something."""
    return Ratio(name, statistics.median(ratios), min(ratios), max(ratios), ours_s)


@contextmanager
def memory_as_it_comes() -> Iterator[None]:
    """Give free memory back, and let glibc do meanwhile as it does when nobody tells it."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        for parameter, value in _USUAL.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)
    try:
        yield
    finally:
        keep_freed_memory()


def seconds_of(run: Callable[[], object]) -> float:
    """Time a call, and on an accelerator what it has only been given."""
    _settle()
    start = time.perf_counter()
    run()
    _settle()
    return time.perf_counter() - start


def _settle() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
