"""Cancellation by a Prefect server: a stage ends after the shards in hand, and commits them.

A run that a worker or `serve` began is ended by its process, with a signal, in the same way. One
that was begun on the command line has no such process, so it has to ask.
"""

import time
from contextlib import suppress
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext, SyncClientContext
from prefect.runtime import flow_run as runtime
from prefect.states import Cancelled

from flows.failures import StageCancelled

_SECONDS_BETWEEN_QUESTIONS = 5.0


class CancelWatch:
    """Asks the server now and then whether the flow run at hand, or what began it, is cancelled."""

    def __init__(self) -> None:
        context, self._asked = FlowRunContext.get(), time.monotonic()
        run = context.flow_run if context else None
        self.runs = [run.id] if run else []
        if run and (root := UUID(runtime.root_flow_run_id)) != run.id:
            self.runs.append(root)

    def is_cancelled(self) -> bool:
        """Return whether the server says so; a server that does not answer says nothing."""
        now = time.monotonic()
        if not self.runs or now - self._asked < _SECONDS_BETWEEN_QUESTIONS:
            return False
        self._asked = now
        context = SyncClientContext.get()
        if context is None:
            return False
        # That of the run, which tasks in threads share: entering and leaving it is not for threads.
        with suppress(httpx.HTTPError):
            found = [context.client.read_flow_run(run) for run in self.runs]
            if any(run.deployment_id for run in found):
                # Whoever began it signals its process, and then says that it is cancelled.
                return False
            ends = {StateType.CANCELLING, StateType.CANCELLED}
            return any(run.state is not None and run.state.type in ends for run in found)
        return False


def mark_cancelled(error: StageCancelled) -> None:
    """Let the server show the runs as cancelled, which their engine has called failed."""
    with suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        for run in error.runs:
            client.set_flow_run_state(run, Cancelled(message=str(error)), force=True)
