"""What a process makes once, whichever of its threads asks first."""

from collections.abc import Callable
from functools import cache, wraps
from threading import RLock
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def once(make: Callable[P, T]) -> Callable[P, T]:
    """Cache a function as `functools.cache` does, and let other threads wait while it is called."""
    lock, cached = RLock(), cache(make)

    @wraps(make)
    def call(*values: P.args, **named: P.kwargs) -> T:
        with lock:
            return cached(*values, **named)  # type: ignore[arg-type]

    return call
