"""Which accelerator a process takes, of several in a machine: that of the first free slot.

A slot is a locked file. The system frees it when the process ends, however it ends, so that workers
of any engine, and processes that know nothing of each other, spread over the accelerators, and one
that takes the place of a lost worker takes its accelerator.
"""

import fcntl
import itertools
import os
import tempfile
from pathlib import Path
from typing import IO

from tasks.once import once

# Open as long as the process lives.
_held: list[IO[bytes]] = []


@once
def own_slot() -> int:
    """Return the number of this process among those of this user and machine that asked, from 0."""
    folder = Path(tempfile.gettempdir()) / f"styleclip-slots-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for number in itertools.count():
        file = (folder / str(number)).open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            _held.append(file)
            return number
    raise AssertionError
