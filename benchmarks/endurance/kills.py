"""Kill the whole pipeline at random times; what it leaves in the end is what it always leaves.

One workspace is filled by `styleclip run` undisturbed. Then runs of the same command are killed
with SIGKILL, the whole process group, and started again: one in seven at a time drawn evenly from
the length of an undisturbed run, the others in a stage that is drawn, however short it is. The
tables, arrays, mappers and images must be byte for byte those of the undisturbed run, wall times
aside; then the workspace is cleared, and so on. Every second resumed run is killed again, the
others come to their end.

All processes use one Prefect server, whose start takes longer than the job. They are forked from a
process that has the modules loaded, so that kills fall into work and not into imports.
"""

import argparse
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess

from benchmarks.endurance.job import STAGES, Job, Snapshot, differences, finished_job

# Share of resumed runs that are killed again.
_AGAIN = 0.5
# Stands for no stage: a kill at any time.
_ANY = "any"
# Share of a run that a kill in a stage waits at most, and how often it looks for the stage.
_DELAY, _LOOK_SECONDS = 0.05, 0.02


def kill_runs(
    job: Job,
    kills: int,
    wanted: Snapshot,
    length: float,
    seed: int = 0,
    stages: Sequence[str] = (_ANY,),
) -> tuple[Counter[str], list[str]]:
    """Kill runs of a job, and resume them.

    Args:
        job: What to run.
        kills: How often.
        wanted: What an undisturbed run leaves.
        length: How long it takes, in seconds.
        seed: Of the times.
        stages: Where to kill, drawn evenly; `any` is at a time drawn evenly from a whole run.

    Returns:
        How many kills fell into which stage, and what was wrong in the end.
    """
    chance, fell, wrong = random.Random(seed), Counter[str](), list[str]()  # noqa: S311
    job.clear()
    while fell.total() < kills:
        process = job.start()
        _wait(process, job, chance, length, stages)
        killed = process.exitcode is None and bool(process.pid)
        if killed:
            _kill(process.pid or 0)
            process.join()
            fell[job.stage()] += 1
            print(f"kill {fell.total()}: {job.stage()}", flush=True)
            if fell.total() < kills and chance.random() < _AGAIN:
                continue
            job.finish()
        else:
            job.wait([process])
        wrong += [*job.mistakes(), *differences(job.snapshot(), wanted)]
        print(f"finished after {fell.total()} kills: {len(wrong)} differences", flush=True)
        job.clear()
    return fell, wrong


def _wait(
    process: ForkServerProcess,
    job: Job,
    chance: random.Random,
    length: float,
    stages: Sequence[str],
) -> None:
    """Wait until a run is where it is to be killed, or has ended."""
    # A resumed run has no part of a stage that is over.
    over = STAGES.index(job.stage()) if job.stage() in STAGES else 0
    stage = chance.choice([s for s in stages if s == _ANY or STAGES.index(s) >= over] or [_ANY])
    if stage == _ANY:
        process.join(chance.uniform(0, length))
        return
    while process.exitcode is None and job.stage() != stage:
        process.join(_LOOK_SECONDS)
    process.join(chance.uniform(0, _DELAY * length))


def _kill(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        # It has no group of its own yet.
        os.kill(pid, signal.SIGKILL)


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", nargs="+", choices=[_ANY, *STAGES], default=[_ANY, *STAGES])
    options = parser.parse_args()
    with finished_job() as job:
        wanted, length, wrong = job.snapshot(), job.length(), [*job.mistakes()]
        print(f"an undisturbed run takes {length:.1f} s and leaves {len(wanted)} files and tables")
        fell, differing = kill_runs(
            job, options.kills, wanted, length, options.seed, options.stages
        )
        wrong += differing
    for stage, count in fell.most_common():
        print(f"{stage:<14}{count:>4} kills")
    for line in wrong:
        print(f"not the same: {line}")
    failed = min(len(wrong), options.kills)
    print(f"kills: {options.kills - failed} passed, {failed} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
