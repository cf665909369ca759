"""Flows as steps of flows: runs of their own where a server is, plain work where none is."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from prefect import Flow
from prefect.context import FlowRunContext

P = ParamSpec("P")
R = TypeVar("R")


def has_server() -> bool:
    """Return whether this is a flow run that a Prefect server knows of."""
    return FlowRunContext.get() is not None


def step(flow: Flow[P, R]) -> Callable[P, R]:
    """Return a flow as a step of another: a run of its own, or plain work where no server is."""
    return flow if has_server() else flow.fn
