"""Freed memory is there for the next tensor."""

import subprocess
import sys

import pytest

# Exact sizes by numpy: before glibc 2.38 an aligned block, as torch takes it, does not always fit
# where one of its size lay.
FAULTS = """
import resource, sys
import numpy as np
from tasks.memory import keep_freed_memory
from tasks.models import open_models

if sys.argv[1] == "opened":
    open_models("demo", "cpu")
np.ones(16 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    np.ones(16 << 20)
print(int(keep_freed_memory()), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _count_faults(how: str) -> tuple[int, int]:
    command = [sys.executable, "-c", FAULTS, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told, count = map(int, done.stdout.split())
    return told, count


def test_where_models_are_open_memory_does_not_come_page_by_page():
    told, kept = _count_faults("opened")
    if not told:
        pytest.skip("the C library cannot be told")
    assert kept < _count_faults("not opened")[1] / 10
