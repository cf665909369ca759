"""Work whose errors may be stored and logged: their credentials are struck out of them."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from prefect import Flow, flow

from flows.metrics import bound_arguments, place_of
from tasks.store.faults import StoreError, full_disks_explained, is_everywhere, is_lasting
from tasks.store.redaction import redact

P = ParamSpec("P")
T = TypeVar("T")


def guarded(work: Callable[P, T]) -> Callable[P, T]:
    """Keep credentials out of what Prefect stores and logs of an error.

    A full disk gets its remedy, whoever wrote.
    """

    @wraps(work)
    def call(*values: P.args, **named: P.kwargs) -> T:
        try:
            with full_disks_explained(place_of(bound_arguments(work, *values, **named))):
                return work(*values, **named)
        except Exception as error:
            if redact(str(error)) == str(error):
                raise
            told = _without_credentials(error)
        # Outside of the handler, so that it drags no context into the log.
        raise told

    return call


def guarded_flow(name: str) -> Callable[[Callable[P, T]], Flow[P, T]]:
    """Make a Prefect flow of a function, see `guarded`."""
    return lambda work: flow(name=name)(guarded(work))


def _without_credentials(error: Exception) -> Exception:
    if isinstance(error, ValueError):
        # Bad input stays bad input.
        return ValueError(redact(str(error)))
    text = f"{type(error).__name__}: {error}"
    return StoreError(text, lasting=is_lasting(error), everywhere=is_everywhere(error))
