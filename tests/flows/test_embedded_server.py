"""The server of a command that was killed ends as well."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image
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
        for server in (early, late):
            os.kill(int(server), signal.SIGINT)
        time.sleep(0.5)
        assert not any(map(has_ended, (early, late)))
        command.send_signal(signal.SIGKILL)
    until(lambda: has_ended(early))
    until(lambda: has_ended(late))


# As Prefect's server, which is told to end before all of it has begun.
HALF_BEGUN = """
async def app(scope, receive, send):
    await send({"type": "lifespan.startup.complete"})
    print("begun", flush=True)
    await receive()
    await receive()
    raise RuntimeError("not started")
"""


def test_a_server_that_is_told_to_end_says_nothing_more(tmp_path):
    (tmp_path / "half.py").write_text(HALF_BEGUN)
    mine = {"STYLECLIP_SERVER_OF": str(os.getpid()), "PYTHONPATH": os.pathsep.join(sys.path)}
    words = ["half:app", "--app-dir", str(tmp_path), "--port", "0", "--lifespan", "on"]
    words += ["--log-level", "error", "--loop", "flows.embedded_server:watched_loop"]
    with subprocess.Popen(
        [sys.executable, "-m", "uvicorn", *words],
        env=os.environ | mine,  # noqa: TID251
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout.readline() == "begun\n"
        server.terminate()
        assert server.stderr.read() == ""


def test_a_server_of_a_command_gets_no_heartbeats():
    # tests/flows/conftest.py asks for one.
    assert PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() is None


def said_of_a_start(place: Path, home: Path) -> str:
    """Return what a command says whose server cannot start."""
    photos = place / "photos"
    photos.mkdir()
    Image.new("RGB", (80, 80)).save(photos / "nobody.png")
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "align", str(photos), str(place / "ws")],
        env=os.environ | {"PREFECT_API_URL": "", "PREFECT_HOME": str(home)},  # noqa: TID251
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 1
    return " ".join(done.stderr.split())


def test_a_home_that_cannot_be_written_is_told_at_once(tmp_path):
    (tmp_path / "file").touch()
    home = tmp_path / "file" / "home"
    said = said_of_a_start(tmp_path, home)
    assert said.endswith(
        f"PREFECT_HOME: got {home}, where no file can be made (Not a directory), expected a folder "
        "that can be written and has room; set another, or give --no-server"
    )


def test_a_server_that_fails_at_its_start_is_tried_twice(tmp_path):
    # A folder where the database should be.
    (tmp_path / "prefect.db").mkdir()
    said = said_of_a_start(tmp_path, tmp_path)
    assert said.count("starting a Prefect server for this command") == 2
    assert "got an end at its start, 2 times, for the reason above" in said
    assert said.endswith(
        f"its database is in {tmp_path} (PREFECT_HOME); --no-server does without one"
    )
