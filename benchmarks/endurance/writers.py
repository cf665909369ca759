"""Several processes do the same run at the same time; no row is lost, none is there twice.

Two and four processes start `styleclip run` together in an empty workspace, stage by stage to the
report. Afterwards every pair of the manifest must have exactly one row, every file the digest that
was committed, and all tables, arrays and images must be those of one process alone.

All processes use one Prefect server, and are forked from a process that has the modules loaded.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from benchmarks.endurance.job import Job, Snapshot, differences, finished_job


def write_together(job: Job, writers: int, wanted: Snapshot) -> list[str]:
    """Do a job with several processes at once.

    Args:
        job: What to run.
        writers: Processes.
        wanted: What one process alone leaves.

    Returns:
        What was wrong.
    """
    job.clear()
    job.wait([job.start() for _ in range(writers)])
    return [*job.mistakes(), *differences(job.snapshot(), wanted)]


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--repetitions", type=int, default=20)
    options = parser.parse_args()
    with finished_job() as job:
        failed = _repeat(job, options.writers, options.repetitions, job.snapshot())
    count = options.repetitions * len(options.writers)
    print(f"writers: {count - failed} passed, {failed} failed")
    return 1 if failed else 0


def _repeat(job: Job, writers: Sequence[int], repetitions: int, wanted: Snapshot) -> int:
    failed = 0
    for repetition in range(1, repetitions + 1):
        for count in writers:
            began = time.monotonic()
            wrong = write_together(job, count, wanted)
            failed += bool(wrong)
            for line in wrong:
                print(f"not the same: {line}")
            seconds = time.monotonic() - began
            print(f"{repetition}. {count} writers, {seconds:.1f} s: {len(wrong)} wrong", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
