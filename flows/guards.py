"""Work whose errors may be stored and logged: their credentials are struck out of them."""

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import ParamSpec, TypeVar

import httpx
from prefect import Flow, flow
from prefect.context import FlowRunContext, SyncClientContext

from flows.failures import is_hopeless
from flows.logs import make_logs_plain
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
    """Make a Prefect flow of a function, see `guarded`; what is hopeless is not tried again."""
    return lambda work: flow(name=name)(_giving_up(guarded(work)))


def _giving_up(work: Callable[P, T]) -> Callable[P, T]:
    @wraps(work)
    def call(*values: P.args, **named: P.kwargs) -> T:
        # A worker's process has no command that did it.
        make_logs_plain()
        try:
            return work(*values, **named)
        except Exception as error:
            if is_hopeless(error):
                _forgo_retries()
            raise

    return call


def _forgo_retries() -> None:
    """Let the server try the run at hand no more: Prefect asks no condition of flows."""
    run, client = FlowRunContext.get(), SyncClientContext.get()
    if not (run and run.flow_run and client and run.flow_run.empirical_policy.retries):
        return
    policy = run.flow_run.empirical_policy.model_copy(update={"retries": 0})
    with suppress(httpx.HTTPError):
        client.client.update_flow_run(run.flow_run.id, empirical_policy=policy)


def _without_credentials(error: Exception) -> Exception:
    if isinstance(error, ValueError):
        # Bad input stays bad input.
        return ValueError(redact(str(error)))
    text = f"{type(error).__name__}: {error}"
    return StoreError(text, lasting=is_lasting(error), everywhere=is_everywhere(error))
