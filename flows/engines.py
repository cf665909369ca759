"""What carries the shards of a stage: threads under Prefect, or threads alone."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from flows.share import has_server
from tasks.store_faults import is_lasting

Counts = dict[str, int]
ShardTask = Task[..., Counts]


@dataclass(frozen=True)
class Outcome:
    """How a shard ended.

    Attributes:
        done: Whether it is done.
        counts: Its rows by status, where it is.
        error: What was raised, where it is not.
    """

    done: bool
    counts: Counts = field(default_factory=dict)
    error: object = None


class Crew(AbstractContextManager["Crew"], Protocol):
    """Workers that do shards."""

    def submit(self, task: ShardTask, arguments: Mapping[str, Any]) -> Any:
        """Begin a shard, soon, and return its future."""

    def settle(self, future: Any) -> Outcome:
        """Wait for a shard."""


def hire(workers: int) -> Crew:
    """Return a crew of so many workers."""
    return PrefectCrew(workers) if has_server() else LoneCrew(workers)


class PrefectCrew(Crew):
    """Workers of a Prefect task runner, whose tasks a server shows."""

    def __init__(self, workers: int) -> None:
        self._runner = ThreadPoolTaskRunner[Counts](max_workers=workers)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._open.enter_context(self._runner)
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def submit(self, task: ShardTask, arguments: Mapping[str, Any]) -> PrefectFuture[Counts]:
        """Begin a shard as a task run."""
        return self._runner.submit(task, dict(arguments))

    def settle(self, future: PrefectFuture[Counts]) -> Outcome:
        """Wait for a task run."""
        future.wait()
        result: Any = future.state.result(raise_on_failure=False)
        if future.state.is_completed():
            return Outcome(True, counts=result)
        return Outcome(False, error=result)


class LoneCrew(Crew):
    """Threads of a process that no server knows of."""

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers)

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(self, task: ShardTask, arguments: Mapping[str, Any]) -> "Future[Counts]":
        """Begin a shard, with as many attempts as its task has."""
        attempts = Retrying(
            stop=stop_after_attempt(task.retries + 1),
            wait=wait_exponential_jitter(),
            retry=retry_if_exception(lambda error: not is_lasting(error)),
            reraise=True,
        )
        return self._pool.submit(attempts.wraps(task.fn), **arguments)

    def settle(self, future: "Future[Counts]") -> Outcome:
        """Wait for a shard."""
        error = future.exception()
        return Outcome(False, error=error) if error else Outcome(True, counts=future.result())
