"""The server that Prefect starts for commands without one: it ends with its command, even killed.

Prefect stops it when the process exits, which a process that is killed does not. So the server
itself watches for the end of its command. It is uvicorn that runs it, and that loads what makes its
event loop: `watched_loop` here, by an environment variable that only this server gets.
"""

import asyncio
import logging
import os
import signal
import tempfile
import time
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

from uvicorn import Server
from uvicorn.loops.auto import auto_loop_factory

from flows.lifetimes import end_with
from flows.progress import say

_COMMAND = "STYLECLIP_SERVER_OF"
# For the server to write down what it was told last.
_GRACE_SECONDS = 10.0
# Prefect takes a server that ends at its start for one whose port was taken, and tries another
# port, for minutes; one that fails so often has another reason.
_TRIES = 2
# Bytes that a new database needs.
_ROOM = 1 << 20
# Until the process ends.
_settings = ExitStack()


def end_server_with_command() -> None:
    """Let the servers that Prefect starts in this process end with it, without heartbeats to them.

    Heartbeats tell a server that outlives a run whether the run does. To end them takes Prefect up
    to a second for every flow.
    """
    # Not above: the server imports this before it has an event loop, and what has a server of its
    # own need not spend the seconds that importing Prefect's takes.
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_HOME,
        get_current_settings,
        temporary_settings,
    )

    if PREFECT_API_URL.value():
        return
    from prefect.server.api.server import SubprocessASGIServer

    start = SubprocessASGIServer._run_uvicorn_command
    if hasattr(start, "__wrapped__"):
        return

    tries = WeakKeyDictionary[SubprocessASGIServer, int]()

    @wraps(start)
    def watched(server: SubprocessASGIServer) -> Any:
        home = PREFECT_HOME.value()
        database = get_current_settings().server.database.connection_url
        is_at_home = database is None or str(home) in database.get_secret_value()
        tries[server] = tries.get(server, 0) + 1
        if tries[server] > _TRIES:
            place = f"in {home} (PREFECT_HOME)" if is_at_home else "that of the settings"
            raise RuntimeError(
                f"Prefect's server: got an end at its start, {_TRIES} times, for the reason above; "
                f"its database is {place}; --no-server does without one"
            )
        if is_at_home:
            _require_room(home)
        say("starting a Prefect server for this command (--no-server does without one)")
        mine = {_COMMAND: str(os.getpid()), "UVICORN_LOOP": f"{__name__}:watched_loop"}
        os.environ.update(mine)  # noqa: TID251
        # A terminal's Ctrl-C reaches the server as well, which would complain of it and be gone
        # before the command has told it the end. What is blocked here is blocked there.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return start(server)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for name in mine:
                del os.environ[name]  # noqa: TID251

    _settings.enter_context(temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}))
    SubprocessASGIServer._run_uvicorn_command = watched  # type: ignore[assignment, method-assign]


def watched_loop() -> asyncio.AbstractEventLoop:
    """Make the event loop of a server, in its process, and watch its command from now on."""
    end_with(int(os.environ[_COMMAND]), _stop)  # noqa: TID251
    _end_silently()
    return auto_loop_factory()()


def _end_silently() -> None:
    """Let a server that is told to end log no more: one half begun ends with tracebacks."""
    end = Server.handle_exit

    def silent_end(server: Server, number: int, frame: FrameType | None) -> None:
        logging.disable()
        end(server, number, frame)

    Server.handle_exit = silent_end  # type: ignore[assignment, method-assign]


def _require_room(home: Path) -> None:
    """Refuse a folder in which a server cannot keep its database."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(bytes(_ROOM))
    except OSError as error:
        raise RuntimeError(
            f"PREFECT_HOME: got {home}, where no file can be made ({error.strerror}), expected a "
            "folder that can be written and has room; set another, or give --no-server"
        ) from error


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(1)
