"""Kill the whole pipeline at random times; what it leaves in the end is what it always leaves.

One workspace is filled by `styleclip run` undisturbed. Then runs of the same command are killed
with SIGKILL, the whole process group, at times drawn evenly from the length of an undisturbed run,
and started again. The tables, arrays, mappers and images must be byte
for byte those of the undisturbed run, wall times aside; then the workspace is cleared, and so on.
Every second resumed run is killed again, the others come to their end.

All processes use one Prefect server, whose start takes longer than the job. They are forked from a
process that has the modules loaded, so that kills fall into work and not into imports.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.endurance.job import (
    Job,
    Snapshot,
    differences,
    make_job,
    prefect_server,
    prepare_processes,
)

# Share of resumed runs that are killed again.
_AGAIN = 0.5


def kill_runs(
    job: Job, kills: int, wanted: Snapshot, length: float, seed: int = 0
) -> tuple[Counter[str], list[str]]:
    """Kill runs of a job, and resume them.

    Args:
        job: What to run.
        kills: How often.
        wanted: What an undisturbed run leaves.
        length: How long it takes, in seconds.
        seed: Of the times.

    Returns:
        How many kills fell into which stage, and what was wrong in the end.
    """
    chance, stages, wrong = random.Random(seed), Counter[str](), list[str]()  # noqa: S311
    job.clear()
    while stages.total() < kills:
        process = job.start()
        process.join(chance.uniform(0, length))
        killed = process.exitcode is None and bool(process.pid)
        if killed:
            _kill(process.pid or 0)
            process.join()
            stages[job.stage()] += 1
            print(f"kill {stages.total()}: {job.stage()}", flush=True)
            if stages.total() < kills and chance.random() < _AGAIN:
                continue
            job.finish()
        else:
            job.wait([process])
        wrong += [*job.mistakes(), *differences(job.snapshot(), wanted)]
        print(f"finished after {stages.total()} kills: {len(wrong)} differences", flush=True)
        job.clear()
    return stages, wrong


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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, prefect_server(Path(folder)):
        prepare_processes()
        job = make_job(Path(folder) / "job")
        job.finish()
        wanted, length, wrong = job.snapshot(), job.length(), [*job.mistakes()]
        print(f"an undisturbed run takes {length:.1f} s and leaves {len(wanted)} files and tables")
        stages, differing = kill_runs(job, options.kills, wanted, length, options.seed)
        wrong += differing
    for stage, count in stages.most_common():
        print(f"{stage:<14}{count:>4} kills")
    for line in wrong:
        print(f"not the same: {line}")
    failed = min(len(wrong), options.kills)
    print(f"kills: {options.kills - failed} passed, {failed} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
