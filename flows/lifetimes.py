"""Worker processes end with the flow's process, also when that is killed."""

import os
import threading
import time

_SECONDS_BETWEEN_LOOKS = 1.0


def end_with(parent: int) -> None:
    """Let this process end soon after its parent; what it has not committed is not lost for that.

    Args:
        parent: Process id.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    # A process whose parent is gone gets another.
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os._exit(1)
