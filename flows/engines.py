"""What carries the shards of a stage: threads, processes, a Dask cluster or Ray, by one option.

All but threads load the networks once in each of their processes. A shard whose worker is lost is
done by another.
"""

import os
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol, Self, cast

from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import Task
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential_jitter,
)

from flows.failures import tell_attempt
from flows.lifetimes import end_with
from flows.steps import has_server
from tasks.store.faults import is_lasting

Counts = dict[str, int]
ShardTask = Task[..., Counts]
Runner = TaskRunner[Any]
# An engine that needs an extra, and the module that it brings.
_EXTRAS = {"dask": "prefect_dask", "ray": "prefect_ray"}
_NAMES = ("threads", "processes", *_EXTRAS)


class EngineError(ValueError):
    """There is no such engine, or it is not installed."""


@dataclass(frozen=True)
class Engine:
    """What carries shards.

    Attributes:
        name: threads, processes, dask or ray.
        address: Of a cluster that is there; one of its own is begun where empty.
    """

    name: str = "threads"
    address: str = ""


THREADS = Engine()


def read_engine(text: str) -> Engine:
    """Return the engine that a text names: a name, or for dask and ray also name:address.

    Raises:
        EngineError: There is none such, or it is not installed.
    """
    name, _, address = text.partition(":")
    if name not in _NAMES or (address and name not in _EXTRAS):
        raise EngineError(
            f"engine: got {text!r}, expected threads, processes, dask, dask:tcp://HOST:8786, ray "
            "or ray:ray://HOST:10001"
        )
    if name in _EXTRAS and find_spec(_EXTRAS[name]) is None:
        raise EngineError(
            f"engine: got {text!r}, which needs the package {_EXTRAS[name].replace('_', '-')}; "
            f"install the extra, from a clone: pip install -c constraints.txt '.[{name}]'"
        )
    return Engine(name, address)


@dataclass(frozen=True)
class Outcome:
    """How a shard ended.

    Attributes:
        done: Whether it is done.
        counts: Its rows by status, where it is.
        error: What was raised, where it is not.
        lost: Whether its worker ended under it, so that nothing is known of the shard.
    """

    done: bool
    counts: Counts = field(default_factory=dict)
    error: object = None
    lost: bool = False


class Crew(AbstractContextManager["Crew"], Protocol):
    """Workers that do shards."""

    def submit(self, task: ShardTask, arguments: Mapping[str, Any]) -> Any:
        """Queue a shard, and return its future."""

    def settle(self, future: Any) -> Outcome:
        """Wait for a shard."""


def hire(workers: int, engine: Engine = THREADS) -> Crew:
    """Return a crew of so many workers.

    Raises:
        EngineError: The engine needs a server, and there is none.
    """
    if has_server():
        return PrefectCrew(workers, engine)
    require_threads(engine)
    return LoneCrew(workers)


def require_threads(engine: Engine) -> None:
    """Refuse an engine that needs a server, where there is none.

    Raises:
        EngineError: It does.
    """
    if engine.name != "threads":
        raise EngineError(
            f"engine: got {engine.name} without a server, expected threads; for several processes "
            "without a server give each its --worker"
        )


Submitted = tuple[Runner, PrefectFuture[Counts]]


class PrefectCrew(Crew):
    """Workers of a Prefect task runner, whose tasks a server shows."""

    def __init__(self, workers: int, engine: Engine) -> None:
        self._workers, self._engine, self._open = workers, engine, ExitStack()

    def __enter__(self) -> Self:
        if self._engine.name != "threads":
            self._open.enter_context(one_server())
        self._runner = self._open.enter_context(_runner(self._engine, self._workers))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def submit(self, task: ShardTask, arguments: Mapping[str, Any]) -> Submitted:
        """Begin a shard as a task run."""
        return self._runner, self._runner.submit(task, dict(arguments))

    def settle(self, future: Submitted) -> Outcome:
        """Wait for a task run."""
        runner, run = future
        try:
            # What a shard raises is in the state; what is raised here befell its worker.
            result: Any = cast(Any, run).result(raise_on_failure=False)
        except Exception as error:
            if isinstance(error, BrokenExecutor) and runner is self._runner:
                # One process that is killed ends a pool of them.
                self._open.close()
                self.__enter__()
            return Outcome(False, error=error, lost=True)
        if run.state.is_completed():
            return Outcome(True, counts=result)
        return Outcome(False, error=result)


def one_server() -> AbstractContextManager[object]:
    """Let worker processes ask the server that Prefect started for this one.

    Where none is configured, each would start one.
    """
    if PREFECT_API_URL.value():
        return nullcontext()
    # It takes seconds to import, which processes with a server need not spend.
    from prefect.server.api.server import SubprocessASGIServer

    return temporary_settings({PREFECT_API_URL: SubprocessASGIServer().api_url})


def _runner(engine: Engine, workers: int) -> Runner:
    if engine.name == "threads":
        return ThreadPoolTaskRunner(max_workers=workers)
    if engine.name == "processes":
        return ProcessPoolTaskRunner(workers, initializer=end_with, initargs=(os.getpid(),))
    module = import_module(f"{_EXTRAS[engine.name]}.task_runners")
    if engine.name == "dask":
        # A process each, which may use the memory that it needs.
        own = {"n_workers": workers, "threads_per_worker": 1, "memory_limit": 0}
        cluster = own | {"dashboard_address": None}
        given = {"address": engine.address} if engine.address else {"cluster_kwargs": cluster}
        return cast(Runner, module.DaskTaskRunner(**given))
    # Ray would hide the accelerators from tasks that name none; a process takes its own.
    seen = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
    begin: dict[str, Any] = {"runtime_env": {"env_vars": seen}}
    begin |= {} if engine.address else {"num_cpus": workers, "include_dashboard": False}
    return cast(Runner, module.RayTaskRunner(address=engine.address or None, init_kwargs=begin))


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
            before_sleep=partial(_tell, task, arguments),
            reraise=True,
        )
        return self._pool.submit(attempts.wraps(task.fn), **arguments)

    def settle(self, future: "Future[Counts]") -> Outcome:
        """Wait for a shard."""
        error = future.exception()
        return Outcome(False, error=error) if error else Outcome(True, counts=future.result())


def _tell(task: ShardTask, arguments: Mapping[str, Any], state: RetryCallState) -> None:
    name, error = f"shard-{arguments['shard']}", state.outcome and state.outcome.exception()
    tell_attempt(f"{task.name} {name}", state.attempt_number, task.retries, error)
