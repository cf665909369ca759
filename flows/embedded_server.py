"""The server that Prefect starts for commands without one: it ends with its command, even killed.

Prefect stops it when the process exits, which a process that is killed does not. So the server
itself watches for the end of its command. It is uvicorn that runs it, and that loads what makes its
event loop: `watched_loop` here, by an environment variable that only this server gets.
"""

import asyncio
import os
import signal
import threading
import time
from functools import wraps
from typing import Any

from uvicorn.loops.auto import auto_loop_factory

_COMMAND = "STYLECLIP_SERVER_OF"
_SECONDS_BETWEEN_LOOKS = 1.0
# For the server to write down what it was told last.
_GRACE_SECONDS = 10.0


def end_server_with_command() -> None:
    """Let the servers that Prefect starts in this process end with it."""
    # Not above, since the server imports this before it has an event loop.
    from prefect.server.api.server import SubprocessASGIServer

    start = SubprocessASGIServer._run_uvicorn_command
    if hasattr(start, "__wrapped__"):
        return

    @wraps(start)
    def watched(server: SubprocessASGIServer) -> Any:
        mine = {_COMMAND: str(os.getpid()), "UVICORN_LOOP": f"{__name__}:watched_loop"}
        os.environ.update(mine)  # noqa: TID251
        try:
            return start(server)
        finally:
            for name in mine:
                del os.environ[name]  # noqa: TID251

    SubprocessASGIServer._run_uvicorn_command = watched  # type: ignore[assignment, method-assign]


def watched_loop() -> asyncio.AbstractEventLoop:
    """Make the event loop of a server, in its process, and watch its command from now on."""
    command = int(os.environ[_COMMAND])  # noqa: TID251
    threading.Thread(target=_end_with, args=(command,), daemon=True).start()
    return auto_loop_factory()()


def _end_with(command: int) -> None:
    # A process whose parent is gone gets another.
    while os.getppid() == command:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(1)
