"""Processes of ours end with the process that began them, also when that is killed."""

import os
import threading
import time
from collections.abc import Callable

_SECONDS_BETWEEN_LOOKS = 1.0


def end_with(parent: int, end: Callable[[], None] = lambda: os._exit(1)) -> None:
    """Let this process end soon after its parent; what it has not committed is not lost for that.

    Args:
        parent: Process id.
        end: Ends this process.
    """
    threading.Thread(target=_watch, args=(parent, end), daemon=True).start()


def _watch(parent: int, end: Callable[[], None]) -> None:
    # A process whose parent is gone gets another.
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    end()
