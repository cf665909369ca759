"""Deployments on a real server, from the prefect.yaml of the project."""

import json
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL

from flows.cli import app
from flows.deploy import LOST_RUNS, _anywhere

FILE = Path(__file__).parents[2] / "prefect.yaml"


def deploy(capsys, *words: str) -> tuple[int, str, str]:
    status = app.meta(["--json", "deploy", "s3://faces/ws", *words])
    shown = capsys.readouterr()
    return status, shown.out, " ".join(shown.err.split())


@pytest.fixture
def no_limit_later():
    """The server that tests share asks for each task whether its tags are limited."""
    yield
    with get_client(sync_client=True) as client:
        client.delete_concurrency_limit_by_tag("gpu")


@pytest.mark.usefixtures("no_limit_later")
def test_all_flows_are_set_up_on_a_server(capsys):
    api = PREFECT_API_URL.value()
    status, out, err = deploy(capsys, "--file", str(FILE), "--api", api, "--gpus", "4")
    assert status == 0, err
    told = json.loads(out)
    assert told["counts"] == {"deployments": 10, "schedules": 2, "work pools": 1}
    names = told["facts"]["deployments"]
    assert names[:3] == ["run-pipeline/nightly", "edit-dataset/hourly", "align-photos/by-hand"]
    with get_client(sync_client=True) as client:
        made = {name: client.read_deployment_by_name(name) for name in names}
        assert {one.work_pool_name for one in made.values()} == {"styleclip"}
        assert all(
            one.entrypoint.startswith("flows.") and not one.pull_steps for one in made.values()
        )
        nightly, hourly = made["run-pipeline/nightly"], made["edit-dataset/hourly"]
        assert (nightly.schedules[0].schedule.cron, nightly.schedules[0].active) == (
            "0 2 * * *",
            True,
        )
        assert hourly.schedules[0].schedule.interval.total_seconds() == 3600
        assert hourly.parameters["manifest"] == "s3://faces/ws/edits.parquet"
        assert nightly.parameters["photos"] == "s3://faces/ws/photos"
        assert (nightly.parameters["update"], nightly.parameters["models"]) == (True, "demo")
        assert (nightly.global_concurrency_limit.limit, nightly.tags) == (1, ["styleclip", "gpu"])
        assert client.read_concurrency_limit_by_tag("gpu").concurrency_limit == 4
        assert client.read_work_pool("styleclip").concurrency_limit == 4
        assert [len(client.read_automations_by_name(name)) for name in LOST_RUNS] == [1, 1]
        # The server knows names, types, choices and the parameters of parameters.
        for wrong in (
            {"image_format": "gif"},
            {"relevance": {"num_images": "many"}},
            {"manifset": "edits.csv"},
            {"redo": {"only_promt": ["a smile"]}},
        ):
            with pytest.raises(PrefectHTTPStatusError, match="409"):
                client.create_flow_run_from_deployment(nightly.id, parameters=wrong)


def test_paths_are_those_that_a_worker_finds(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for place, wanted in (("~/in", "/in"), ("in", "/in"), (f"{tmp_path}/in", "/in")):
        assert _anywhere(place) == f"{tmp_path}{wanted}"
    assert _anywhere("s3://faces/in") == "s3://faces/in"


def test_what_cannot_be_set_up_is_told(capsys, tmp_path):
    status, _, err = deploy(capsys, "--file", str(tmp_path / "none.yaml"), "--api", "http://x/api")
    assert (status, "take prefect.yaml from the source" in err) == (2, True)
    assert "expected 1 or more" in deploy(capsys, "--gpus", "0", "--api", "http://x/api")[2]
    file = tmp_path / "mine.yaml"
    file.write_text(FILE.read_text() + "# {{ $STYLECLIP_MISSING }}\n")
    status, _, err = deploy(capsys, "--file", str(file), "--api", "http://x/api")
    assert (status, "got STYLECLIP_MISSING, expected" in err) == (2, True)
    for old, new, wanted in (
        (
            "photos: ",
            "photso: ",
            "'photso', which run-pipeline does not take; did you mean 'photos'",
        ),
        ("slug: hourly,", "slug: hourly, parameters: {manifset: a},", "did you mean 'manifest'"),
        ("flows.edit.edit_dataset", "flows.edt.edit_dataset", "(No module named 'flows.edt'), exp"),
        ("entrypoint: flows.edit.edit_dataset", "", "hourly: got the entrypoint ''"),
    ):
        file.write_text(FILE.read_text().replace(old, new))
        assert wanted in deploy(capsys, "--file", str(file), "--api", "http://x/api")[2]
    file.write_text(FILE.read_text().replace("type: process", ""))
    assert "without name or type" in deploy(capsys, "--file", str(file), "--api", "http://x/api")[2]
    file.write_text("deployments: 3")
    assert "got no deployments" in deploy(capsys, "--file", str(file), "--api", "http://x/api")[2]
    there = ("--file", str(FILE), "--api", "http://127.0.0.1:9/api")
    assert "see that it runs, and that the URL ends with /api" in deploy(capsys, *there)[2]
