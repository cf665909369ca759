"""Files for servers and containers say what there is: commands, settings, folders."""

import json
from pathlib import Path

import pytest
import yaml
from prefect.cli._app import _app as prefect_app
from prefect.settings import Settings
from prefect.settings.legacy import _get_settings_fields

from flows.cli import app

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def services() -> dict[str, dict]:
    return yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]


def test_the_compose_file_holds_a_server_a_store_and_two_workers(services):
    assert {"postgres", "redis", "server", "background", "minio", "worker-1", "worker-2"} <= {
        *services
    }
    for name, service in services.items():
        assert {*service.get("depends_on", [])} <= {*services}, name


def test_every_command_of_the_compose_file_exists(services):
    ran = []
    for service in services.values():
        program, *words = service.get("command", [""])
        if program in ("prefect", "styleclip"):
            command, _, _ = {"prefect": prefect_app, "styleclip": app}[program].parse_args(
                words, exit_on_error=False, print_error=False
            )
            ran.append((program, command.__name__))
    assert sorted(ran) == sorted(
        [("prefect", name) for name in ("upgrade", "start", "start_services", "start", "start")]
        + [("styleclip", "deploy_flows")]
    )


def test_every_setting_of_prefect_is_one(services):
    described = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    names = {*described["definitions"]["env"]}
    names.update(*(service.get("environment", {}) for service in services.values()))
    asked = {n for n in names if n.startswith("PREFECT_") and not n.startswith("PREFECT_REDIS_")}
    assert len(asked) > 8
    assert asked <= {*_get_settings_fields(Settings)}


def test_the_image_copies_what_there_is():
    copied = [
        line.split()[1:-1]
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY")
    ]
    assert all((ROOT / name).exists() for names in copied for name in names)


def test_pods_ask_for_gpus():
    pool = json.loads((ROOT / "deploy" / "kubernetes-pool.json").read_text())
    (container,) = pool["job_configuration"]["job_manifest"]["spec"]["template"]["spec"][
        "containers"
    ]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "{{ gpus }}"
    asked = yaml.safe_load((ROOT / "prefect.yaml").read_text())["definitions"]["pools"]
    assert {*asked["kubernetes"]["job_variables"]} <= {*pool["variables"]["properties"]}
