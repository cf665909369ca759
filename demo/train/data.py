"""The stage `data`: render portraits once, for all that trains on them."""

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from demo.portraits.render import render_portraits
from demo.portraits.sampling import parameter_vector, sample_portraits
from demo.train.clock import Deadline, describe_seconds
from demo.train.progress import Report
from demo.train.shards import SeriesConfig, has_shard, open_series, write_shard


def render_series(
    folder: Path,
    config: SeriesConfig,
    num: int,
    deadline: Deadline,
    report: Report,
    device: torch.device,
    workers: int,
) -> int:
    """Render the shards that are missing of the first `num` portraits of a series.

    Args:
        folder: Where the series is, or will be.
        config: The series.
        num: Portraits wanted; whole shards are rendered.
        deadline: No shard is begun after it.
        report: Told the progress.
        device: Where to render; a processor's cores share the work.
        workers: Processes on a processor; 1 renders in this one.

    Returns:
        Portraits rendered by this call.

    Raises:
        ValueError: see `demo.train.shards.open_series`.
    """
    open_series(folder, config)
    shards = -(-num // config.shard)
    missing = [i for i in range(shards) if not has_shard(folder, i)]
    render = partial(render_shard, folder, config, device=device)
    started, done = time.monotonic(), 0
    processes = min(workers, len(missing)) if device.type == "cpu" else 1
    for _ in _finished(missing, render, deadline, processes):
        done += 1
        rate = done * config.shard / (time.monotonic() - started)
        eta = (len(missing) - done) * config.shard / rate
        report(
            f"data {folder.name}: {(shards - len(missing) + done) * config.shard} of "
            f"{shards * config.shard} portraits, {rate:.0f}/s, ETA {describe_seconds(eta)}"
        )
    return done * config.shard


def render_shard(folder: Path, config: SeriesConfig, index: int, device: torch.device) -> None:
    """Render one shard to disk."""
    portraits = sample_portraits(config.shard, config.seed, start=index * config.shard)
    pictures = render_portraits(portraits, config.size, device)
    write_shard(folder, index, pictures, parameter_vector(portraits))


def _finished(
    missing: list[int], render: "partial[None]", deadline: Deadline, processes: int
) -> Iterator[int]:
    """Render shards in order until the deadline, yielding each one's number when it is there."""
    if processes <= 1:
        for index in missing:
            if deadline.passed:
                return
            render(index)
            yield index
        return
    # Forked children of a process that has used threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, torch.set_num_threads, (1,)) as pool:
        waiting, running = iter(missing), dict[Future[None], int]()
        while True:
            room = 0 if deadline.passed else processes - len(running)
            for index in islice(waiting, room):
                running[pool.submit(render, index)] = index
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                future.result()
                yield running.pop(future)
