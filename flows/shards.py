"""Run the shards of a stage as Prefect tasks, a bounded number at a time."""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task, exponential_backoff

from flows.artifacts import ProgressArtifact, show_counts
from flows.progress import describe_counts, progress_bar

ShardWork = Callable[..., dict[str, int]]
_RETRIES = 2


class StageError(RuntimeError):
    """Shards of a stage failed; what is committed stays, and the same command continues."""


def shard_task(work: ShardWork) -> Task[..., dict[str, int]]:
    """Make a Prefect task of the function that does one shard."""
    return Task(
        fn=work,
        name=work.__name__.replace("_", "-"),
        task_run_name="shard-{shard}",
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=_RETRIES,
        retry_delay_seconds=exponential_backoff(backoff_factor=1),
        retry_jitter_factor=1.0,
    )


def _pool(workers: int) -> ThreadPoolTaskRunner[dict[str, int]]:
    return ThreadPoolTaskRunner(max_workers=workers)


def run_shards(
    label: str,
    work: ShardWork,
    shards: Sequence[int],
    workers: int,
    arguments: Mapping[str, Any],
) -> dict[str, int]:
    """Do shards, at most `workers` at a time, and add up what they count.

    Args:
        label: Of the stage, for people.
        work: Does one shard, given as its argument `shard`.
        shards: Their numbers.
        workers: Shards at a time.
        arguments: What `work` takes besides.

    Returns:
        Counts by status.

    Raises:
        StageError: Shards failed, retries included. The others are done all the same.
    """
    counts, failed, done = Counter[str](), list[tuple[int, str]](), 0
    waiting, running = deque(shards), deque[tuple[int, PrefectFuture[dict[str, int]]]]()
    shard_work = shard_task(work)
    if not shards:
        return {}
    shown = ProgressArtifact(label, len(shards))
    with (
        progress_bar(label, len(shards)) as bar,
        _pool(workers) as runner,
    ):
        while waiting or running:
            # A window, since submitting everything at once would hold a future for every shard.
            while waiting and len(running) < 2 * workers:
                shard = waiting.popleft()
                running.append((shard, runner.submit(shard_work, {**arguments, "shard": shard})))
            shard, future = running.popleft()
            future.wait()
            done += 1
            if future.state.is_completed():
                counts.update(future.result())
            else:
                failed.append((shard, str(future.state.message)))
            bar.advance(done, describe_counts(counts))
            shown.advance(done)
    show_counts(label, counts)
    if failed:
        shard, message = failed[0]
        raise StageError(
            f"{label}: {len(failed)} of {len(shards)} shards failed, first shard {shard}: "
            f"{message}; what is committed stays: give the same command to continue"
        )
    return dict(counts)
