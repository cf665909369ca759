"""A real Prefect server shows runs, tasks, progress and results of the command line."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import torch


@pytest.fixture
def server(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if "PREFECT" not in name}  # noqa: TID251
    environment |= {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
    }
    command = ["-m", "prefect", "server", "start", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, *command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"{environment['PREFECT_API_URL']}/health")
        yield environment
    finally:
        process.terminate()
        process.wait(30)


def wait_for(url: str) -> None:
    for _ in range(240):
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(1)
    raise TimeoutError(url)


def ask(url: str) -> list[dict]:
    request = urllib.request.Request(url, b"{}", {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_a_server_shows_runs_shards_and_artifacts(server, tmp_path, models):
    torch.save(torch.randn(5, 8, 28), tmp_path / "latents.pt")
    command = [sys.executable, "-m", "flows.cli", "--json", "latents", "import"]
    command += [str(tmp_path / "ws"), str(tmp_path / "latents.pt"), "--models", models]
    done = subprocess.run(command, env=server, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"] == {"ok": 5}
    api = server["PREFECT_API_URL"]
    (run,) = ask(f"{api}/flow_runs/filter")
    assert (run["state_name"], run["parameters"]["models"]) == ("Completed", models)
    (shard,) = ask(f"{api}/task_runs/filter")
    assert (shard["name"], shard["state_name"]) == ("shard-0", "Completed")
    artifacts = {artifact["key"]: artifact for artifact in ask(f"{api}/artifacts/filter")}
    assert float(artifacts["import-progress"]["data"]) == 100
    assert json.loads(artifacts["import-counts"]["data"]) == [{"status": "ok", "rows": 5}]
