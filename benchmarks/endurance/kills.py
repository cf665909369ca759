"""Kill the whole pipeline at random times; what it leaves in the end is what it always leaves.

One workspace is filled by `styleclip run` undisturbed. Then runs of the same command are killed
with SIGKILL, the whole process group, at times drawn evenly from the length of an undisturbed run,
and started again until one comes to its end. Its tables, arrays, mappers and images must be byte
for byte those of the undisturbed run, wall times aside; then the workspace is cleared, and so on.

All processes use one Prefect server, whose start takes longer than the job. They are forked from a
process that has the modules loaded, so that kills fall into work and not into imports.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.endurance.job import Job, differences, make_job, prefect_server, prepare_processes


def kill_runs(job: Job, kills: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """Kill runs of a job, and resume them.

    Args:
        job: What to run.
        kills: How often.
        seed: Of the times.

    Returns:
        How many kills fell into which stage, and what was wrong in the end.
    """
    chance, stages, wrong = random.Random(seed), Counter[str](), list[str]()  # noqa: S311
    # The first run also starts the process that all are forked from.
    job.finish()
    job.clear()
    began = time.monotonic()
    job.finish()
    length = time.monotonic() - began
    wanted = job.snapshot()
    wrong += job.mistakes()
    print(f"an undisturbed run takes {length:.1f} s and leaves {len(wanted)} files and tables")
    job.clear()
    while stages.total() < kills:
        process = job.start()
        process.join(chance.uniform(0, length))
        if process.exitcode is None and process.pid:
            _kill(process.pid)
            process.join()
            stages[job.stage()] += 1
            if stages.total() < kills:
                continue
            job.finish()
        else:
            job.wait([process])
        wrong += job.mistakes()
        wrong += differences(job.snapshot(), wanted)
        print(f"{stages.total()} kills, {len(wrong)} differences", flush=True)
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
        stages, wrong = kill_runs(make_job(Path(folder) / "job"), options.kills, options.seed)
    for stage, count in stages.most_common():
        print(f"{stage:<14}{count:>4} kills")
    for line in wrong:
        print(f"not the same: {line}")
    failed = min(len(wrong), options.kills)
    print(f"kills: {options.kills - failed} passed, {failed} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
