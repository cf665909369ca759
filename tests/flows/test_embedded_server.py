"""The server of a command that was killed ends as well."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY

# The second server is killed before it has begun to watch.
COMMAND = """
import time
from flows.embedded_server import end_server_with_command
end_server_with_command()
from prefect.server.api.server import SubprocessASGIServer
for port in (1, 2):
    server = SubprocessASGIServer(port)
    server.port = server.find_available_port()
    print(server._run_uvicorn_command().pid, flush=True)
    input()
"""


def until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise TimeoutError


def has_ended(pid: str) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def test_the_server_of_a_killed_command_ends(tmp_path):
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND],
        env=os.environ | {"PREFECT_HOME": str(tmp_path)},  # noqa: TID251
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with command:
        early = command.stdout.readline().strip()
        until(lambda: len([*Path(f"/proc/{early}/task").iterdir()]) > 1)
        print(file=command.stdin, flush=True)
        late = command.stdout.readline().strip()
        assert not has_ended(early)
        command.send_signal(signal.SIGKILL)
    until(lambda: has_ended(early))
    until(lambda: has_ended(late))


def test_a_server_of_a_command_gets_no_heartbeats():
    # tests/flows/conftest.py asks for one.
    assert PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() is None
