"""Run the shards of a stage as Prefect tasks, a bounded number at a time."""

import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.settings import PREFECT_API_URL
from prefect.tasks import Task, exponential_backoff

from flows.artifacts import ProgressArtifact, show_counts
from flows.cancelling import CancelWatch
from flows.engines import THREADS, Crew, Engine, Outcome, ShardTask, hire
from flows.failures import (
    Failure,
    FailureBudget,
    Failures,
    StageCancelled,
    StageError,
    tell_attempt,
)
from flows.guards import guarded
from flows.metrics import measured, place_of, write_metrics
from flows.progress import Pieces, describe_counts, progress_bar, say
from flows.share import ALL, Share
from tasks.store.faults import StoreError, is_lasting, retried_requests

P = ParamSpec("P")
T = TypeVar("T")
ShardWork = Callable[..., dict[str, int]]
_RETRIES = 2
# Tasks that use an accelerator where there is one.
GPU_TAG = "gpu"
_BUDGET = FailureBudget()
# How often a shard whose worker is lost is given to another: it may be what the workers die of.
_LOSSES = 3


def shard_task(work: ShardWork, stage: str, tags: Iterable[str] = ()) -> Task[..., dict[str, int]]:
    """Make a Prefect task of the function that does one shard; a server may limit tags."""
    return guarded_task(
        measured(work, stage),
        work.__name__.replace("_", "-"),
        "shard-{shard}",
        tags=tags,
        retry_delay_seconds=exponential_backoff(backoff_factor=1),
        retry_jitter_factor=1.0,
    )


def guarded_task(work: Callable[P, T], name: str, task_run_name: str, **options: Any) -> Task[P, T]:
    """Make a Prefect task that is tried again where that may help, and keeps no result."""
    return Task(
        fn=guarded(work),
        name=name,
        task_run_name=task_run_name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=_RETRIES,
        retry_condition_fn=may_help,
        **options,
    )


def may_help(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Return whether another attempt at a task may succeed, as Prefect asks while one is left."""
    error = state.result(raise_on_failure=False)
    if is_lasting(error):
        return False
    tell_attempt(f"{task.name} {run.name}", run.run_count, task.retries, error)
    return True


def in_own_order(items: Sequence[T]) -> list[T]:
    """Return what is to be done in an order that other processes at the same work do not have.

    All skip what another has committed. In the same order they would all do the same, each time.
    """
    return random.sample(items, len(items))


def run_shards(
    label: str,
    work: ShardWork,
    shards: Sequence[int],
    workers: int,
    arguments: Mapping[str, Any],
    budget: FailureBudget = _BUDGET,
    share: Share = ALL,
    tags: Iterable[str] = (GPU_TAG,),
    engine: Engine = THREADS,
    tells: bool = False,
) -> dict[str, int]:
    """Do shards, at most `workers` at a time and in any order, and add up what they count.

    Args:
        label: Of the stage, for people.
        work: Does one shard, given as its argument `shard`.
        shards: Their numbers.
        workers: Shards at a time.
        arguments: What `work` takes besides.
        budget: How many may fail before no more are begun.
        share: Which of them this process does.
        tags: Of the tasks, for the limits of a server, see `styleclip deploy`. A command's own
            server has none, and asking for a slot would take a fifth of a second a shard.
        engine: What carries them.
        tells: Whether `work` takes `on_progress`, and tells it which share of its shard is done. Of
            other processes nothing is heard before a shard is done.

    Returns:
        Counts by status; of what is planned where this process only prepares.

    Raises:
        StageError: Shards failed, retries included. The others are done all the same, as long as
            the budget lasts.
        StageCancelled: Somebody cancelled the run on its server.
    """
    if not share.works:
        return {"planned": len(shards)}
    shards = in_own_order(share.of(shards))
    if not shards:
        return {}
    counts, failures, done = Counter[str](), Failures(budget, len(shards)), 0
    began, retried = time.monotonic(), retried_requests()
    # Other processes would get a copy of the failures, which says nothing of later ones.
    ending = _without_retries_at_end(work, failures) if engine.name == THREADS.name else work
    shard_work = shard_task(ending, label, tags if PREFECT_API_URL.value() else ())
    shown, cancel = ProgressArtifact(label, len(shards)), CancelWatch()
    with progress_bar(label, len(shards)) as bar, hire(workers, engine) as crew:
        pieces = Pieces(bar)
        tell = pieces.tell if tells and engine.name == THREADS.name else None
        begin = partial(_begin, crew, shard_work, arguments, tell)
        # A window, since submitting everything at once would hold a future for every shard.
        for shard, outcome in _outcomes(crew, begin, shards, 2 * workers, failures):
            done += 1
            if outcome.done:
                counts.update(outcome.counts)
                failures.succeed()
            else:
                failures.fail(Failure(shard, outcome.error))
            lost = f"{describe_counts({'shards': len(failures)})} failed" if failures else ""
            pieces.finish(shard, ", ".join(filter(None, (describe_counts(counts), lost))))
            shown.advance(done)
            if done < len(shards) and cancel.is_cancelled():
                # The pool ends with the shards in hand; those that it has not begun are dropped.
                raise StageCancelled(label, done, len(shards), cancel.runs)
    show_counts(label, counts)
    again = retried_requests() - retried
    facts: dict[str, Any] = {
        "stage": label,
        "run": place_of(arguments),
        "shards": done,
        "statuses": dict(counts),
    }
    facts |= {"seconds": round(time.monotonic() - began, 3), "retried_requests": dict(again)}
    write_metrics("stage", **facts, shards_failed=len(failures))
    _tell_retries(label, again)
    if failures:
        raise StageError(failures.tell(label, done), failures.hopeless)
    return dict(counts)


def _without_retries_at_end(work: ShardWork, failures: Failures) -> ShardWork:
    """Let shards in hand not be tried again once their stage ends: each may take minutes."""

    @wraps(work)
    def call(*values: Any, **named: Any) -> dict[str, int]:
        try:
            return work(*values, **named)
        except StoreError as error:
            error.lasting = error.lasting or bool(failures.verdict)
            raise

    return call


def _begin(
    crew: Crew,
    work: ShardTask,
    arguments: Mapping[str, Any],
    tell: Callable[[int, float], None] | None,
    shard: int,
) -> Any:
    told = {"on_progress": partial(tell, shard)} if tell else {}
    return crew.submit(work, {**arguments, "shard": shard, **told})


def _outcomes(
    crew: Crew,
    begin: Callable[[int], Any],
    shards: Sequence[int],
    window: int,
    failures: Failures,
) -> Iterator[tuple[int, Outcome]]:
    """Begin shards until too many failed, at most `window` ahead, and yield how each ended.

    A shard whose worker is lost is given to another.
    """
    waiting, running = deque(shards), deque[tuple[int, Any]]()
    lost = Counter[int]()
    while running or (waiting and not failures.verdict):
        while waiting and len(running) < window and not failures.verdict:
            shard = waiting.popleft()
            running.append((shard, begin(shard)))
        shard, future = running.popleft()
        outcome = crew.settle(future)
        if outcome.lost and lost[shard] < _LOSSES:
            lost[shard] += 1
            waiting.appendleft(shard)
            continue
        yield shard, outcome


def _tell_retries(label: str, retried: Counter[str]) -> None:
    if retried:
        kinds = describe_counts(retried)
        say(f"{label}: {retried.total()} requests to stores were tried again: {kinds}")
