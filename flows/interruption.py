"""Ctrl-C and SIGTERM: a command ends soon, whatever its threads do, for the next one continues."""

import os
import signal
import sys
import threading
from contextlib import nullcontext
from types import FrameType
from typing import NoReturn

from flows.progress import console

INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# For Prefect to note that the run was stopped, and for shards that are nearly done.
_GRACE_SECONDS = 3.0


def end_soon_when_interrupted() -> None:
    """Let the first Ctrl-C or SIGTERM end the process in a few seconds, and the second at once."""
    for number in _SIGNALS:
        signal.signal(number, _interrupt)


def keep_signals() -> None:
    """Keep Prefect from handling SIGTERM in its flows: it would first talk to its server.

    It does so for a worker that cancels a run, which a command has not; and who ends a command's
    process group, as `timeout` does, has ended the server that Prefect would talk to.
    """
    from prefect import flow_engine

    setattr(flow_engine, "capture_sigterm", nullcontext)  # noqa: B010


def end_at_once_when_interrupted(status: int) -> None:
    """Let Ctrl-C and SIGTERM end a process whose work is done, with its status."""
    for number in _SIGNALS:
        signal.signal(number, lambda *_: os._exit(status))


def leave() -> NoReturn:
    """End the process without waiting for shards at work, which have committed nothing yet."""
    # The server that Prefect starts for commands without one, if there is any.
    if module := sys.modules.get("prefect.server.api.server"):
        module.SubprocessASGIServer().stop()
    _leave_at_once()


def _leave_at_once() -> NoReturn:
    """End the process, whose server sees that: a signal amid waiting for it would wait for ever."""
    sys.stdout.flush()
    console.print("interrupted; give the same command to continue")
    os._exit(INTERRUPTED)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    for number in _SIGNALS:
        signal.signal(number, lambda *_: _leave_at_once())
    timer = threading.Timer(_GRACE_SECONDS, leave)
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt
