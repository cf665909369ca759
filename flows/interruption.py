"""Ctrl-C: a command ends soon, whatever its threads do, since the next one continues anyway."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

from flows.progress import console

INTERRUPTED = 130
# For Prefect to note that the run was stopped, and for shards that are nearly done.
_GRACE_SECONDS = 3.0


def end_soon_when_interrupted() -> None:
    """Let the first Ctrl-C end the process in a few seconds, and the second at once."""
    signal.signal(signal.SIGINT, _interrupt)


def leave() -> NoReturn:
    """End the process without waiting for shards at work, which have committed nothing yet."""
    # The server that Prefect starts for commands without one, if there is any.
    if module := sys.modules.get("prefect.server.api.server"):
        module.SubprocessASGIServer().stop()
    sys.stdout.flush()
    console.print("interrupted; give the same command to continue")
    os._exit(INTERRUPTED)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGINT, lambda *_: leave())
    timer = threading.Timer(_GRACE_SECONDS, leave)
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt
