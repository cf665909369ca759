"""Tiny versions of the endurance programs: real processes that are killed, or do the same run."""

import sys

import pytest
from prefect.settings import PREFECT_API_URL

from benchmarks.endurance.job import Job, Snapshot, differences, make_job, prepare_processes
from benchmarks.endurance.kills import kill_runs
from benchmarks.endurance.writers import write_together


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        # Processes inherit the environment, and not what the test harness set in this one.
        patch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())
        patch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))
        prepare_processes()
        job = make_job(tmp_path_factory.mktemp("endurance") / "job")
        job.finish()
        yield job


@pytest.fixture(scope="module")
def length(job: Job) -> float:
    return job.length()


@pytest.fixture(scope="module")
def alone(job: Job, length: float) -> Snapshot:
    assert [*job.mistakes()] == []
    return job.snapshot()


def test_killed_runs_end_like_an_undisturbed_one(job, alone, length):
    stages, wrong = kill_runs(job, 1, alone, length, seed=1)
    assert wrong == []
    assert stages.total() == 1


def test_two_writers_leave_what_one_leaves(job, alone):
    assert write_together(job, 2, alone) == []


def test_a_changed_file_is_seen(job, alone):
    image = next((job.workspace / "runs/run/images").rglob("*.png"))
    image.write_bytes(b"other")
    assert len([*job.mistakes()]) == 1
    (name,) = differences(job.snapshot(), alone)
    assert name.endswith(image.name)
