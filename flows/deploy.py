"""Deployments of all flows on a Prefect server, as prefect.yaml names them."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import yaml
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.events import AutomationCore, EventTrigger, Posture, ResourceSpecification
from prefect.events.actions import ChangeFlowRunState
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.progress import say
from flows.shards import GPU_TAG
from flows.summary import Summary
from manifests.errors import did_you_mean
from tasks.bundles import DEMO_MODELS, bundle_url
from tasks.store.folders import Folder
from tasks.store.redaction import redact

LOST_RUNS = ("styleclip: runs without heartbeats are lost", "styleclip: lost runs go on elsewhere")
# What prefect.yaml tags; heartbeats of others come more seldom.
OWN_TAG = "styleclip"
# Heartbeats come every 30 seconds, see prefect.yaml.
_SILENCE = timedelta(seconds=120)
_LOST = "WorkerLost"
_CLOSED = {"additionalProperties": False}
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "AwaitingRetry", _LOST)


def _related(role: str, name: str) -> ResourceSpecification:
    labels = {"prefect.resource.role": role, "prefect.resource.id": f"prefect.{role}.{name}"}
    return ResourceSpecification.model_validate(labels)


_OWN_RUNS: dict[str, Any] = {
    "match": ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
    "match_related": [_related("deployment", "*"), _related("tag", OWN_TAG)],
    "for_each": {"prefect.resource.id"},
    "threshold": 1,
}


class DeployError(ValueError):
    """Deployments are not described in full, or the server refuses them."""


def deploy_flows(
    workspace: str,
    *,
    photos: str = "",
    prompts: str = "",
    models: str = DEMO_MODELS,
    file: str = "prefect.yaml",
    api: str = "",
    gpus: int = 1,
    shards_per_gpu: int = 1,
) -> Summary:
    """Set up all flows but the demo on a Prefect server, with schedules, pool and limits.

    What is set up is written in prefect.yaml. The same command again changes what is there. Runs
    that are silent for two minutes, because their worker is lost, are given to another worker.

    Args:
        workspace: Folder or URL that holds all data, the same on all workers.
        photos: What the nightly run aligns; photos in the workspace where empty.
        prompts: Its table of prompts; prompts.csv in the workspace where empty.
        models: Bundle of weights: the URL of its JSON file, or `demo`.
        file: What to set up.
        api: Of the server, as http://127.0.0.1:4200/api; PREFECT_API_URL where empty.
        gpus: Of all workers together.
        shards_per_gpu: Shards that may use one GPU at a time.
    """
    began = time.monotonic()
    api = api or PREFECT_API_URL.value() or ""
    if not api:
        raise DeployError(
            "deploy: got no server, expected PREFECT_API_URL or --api; start one with "
            "`prefect server start`"
        )
    if min(gpus, shards_per_gpu) < 1:
        raise DeployError(
            f"deploy: got {gpus} GPUs and {shards_per_gpu} shards for each, expected 1 or more; "
            "for workers without GPUs say how many shards they may do together"
        )
    root = _anywhere(workspace).rstrip("/")
    values = {
        "STYLECLIP_WORKSPACE": root,
        "STYLECLIP_PHOTOS": _anywhere(photos) if photos else f"{root}/photos",
        "STYLECLIP_PROMPTS": _anywhere(prompts) if prompts else f"{root}/prompts.csv",
        "STYLECLIP_MODELS": bundle_url(models),
    }
    described = _read(file, values)
    names = [_checked_name(file, entry) for entry in described]
    pools = {entry["work_pool"]["name"]: entry["work_pool"] for entry in described}
    try:
        with (
            temporary_settings({PREFECT_API_URL: api}),
            get_client(sync_client=True) as client,
        ):
            for pool in pools.values():
                _set_up_pool(client, pool, Path(file).parent)
            client.create_concurrency_limit(GPU_TAG, gpus * shards_per_gpu)
            _set_up_automations(client)
            _deploy(file, api, values)
            for name in names:
                _refuse_unknown_parameters(client, name)
    except httpx.HTTPError as error:
        raise DeployError(
            f"deploy: got {type(error).__name__} from {api} ({redact(str(error))}), expected a "
            "Prefect server; see that it runs, and that the URL ends with /api"
        ) from error
    for name in names:
        say(name)
    counts = {
        "deployments": len(names),
        "schedules": sum(len(entry.get("schedules", [])) for entry in described),
        "work pools": len(pools),
    }
    facts = {"deployments": names, "work_pools": [*pools], "gpu_limit": gpus * shards_per_gpu}
    return Summary("deploy", api, counts, time.monotonic() - began, facts)


def _anywhere(place: str) -> str:
    """Make a path of this folder one that a worker understands."""
    return Folder(place).url


def _read(file: str, values: Mapping[str, str]) -> list[dict[str, Any]]:
    """Read the deployments of a file, and see that they can be set up."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DeployError(
            f"deploy: got {file}, which is not there, expected what to set up; take prefect.yaml "
            "from the source of styleclip-batch, or name another with --file"
        ) from None
    known = {*values, *os.environ}  # noqa: TID251
    unset = sorted({*re.findall(r"\{\{\s*\$(\w+)\s*\}\}", text)} - known)
    if unset:
        raise DeployError(
            f"{file}: got {', '.join(unset)}, expected names that the environment has; set them"
        )
    try:
        described = yaml.safe_load(text)["deployments"]
        missing = [
            entry["name"] for entry in described if not {"type", "name"} <= {*entry["work_pool"]}
        ]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise DeployError(
            f"{file}: got no deployments ({type(error).__name__}: {error}), expected a list of "
            "them, each with name, entrypoint and work_pool, as in prefect.yaml"
        ) from error
    if missing:
        raise DeployError(
            f"{file}: got deployments {', '.join(missing)} without name or type of their work "
            "pool, expected both"
        )
    return list(described)


def _checked_name(file: str, entry: Mapping[str, Any]) -> str:
    """Return the full name of a deployment whose flow takes what it and its schedules are given."""
    entrypoint = entry.get("entrypoint", "")
    try:
        flow: Flow[..., Any] = load_flow_from_entrypoint(entrypoint)
    except (ImportError, OSError, ValueError, PrefectException) as error:
        raise DeployError(
            f"{file}: {entry['name']}: got the entrypoint {entrypoint!r} ({error}), expected that "
            "of a flow, such as flows.edit.edit_dataset"
        ) from error
    known = flow.parameters.properties
    for given in (entry, *(entry.get("schedules") or ())):
        for parameter in sorted({*(given.get("parameters") or ())} - {*known}):
            meant = did_you_mean(parameter, known, f"expected some of {', '.join(known)}")
            raise DeployError(
                f"{file}: {entry['name']}: got the parameter {parameter!r}, which {flow.name} does "
                f"not take; {meant}"
            )
    return f"{flow.name}/{entry['name']}"


def _set_up_pool(client: SyncPrefectClient, pool: Mapping[str, Any], folder: Path) -> None:
    """Make a work pool, or give one that is there its limit and its template."""
    name, limit = pool["name"], pool.get("concurrency_limit")
    template = pool.get("base_job_template")
    given = {"base_job_template": json.loads((folder / template).read_text())} if template else {}
    try:
        there = client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(
            WorkPoolCreate(name=name, type=pool["type"], concurrency_limit=limit, **given)
        )
        return
    if there.type != pool["type"]:
        raise DeployError(
            f"work pool {name!r}: got one of type {there.type}, expected {pool['type']}; remove "
            "it from the server, or take another name"
        )
    client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit, **given))


def _set_up_automations(client: SyncPrefectClient) -> None:
    """Let runs whose heartbeats stop be scheduled again; they continue with what is not committed.

    A worker that is killed leaves its runs in the state Running for ever. It takes two automations:
    the last heartbeat of a run may come after its end, and the server refuses that a run which has
    ended becomes lost, but not that it is scheduled again. Runs of a stage within another stay as
    they are; without a deployment, no worker would take them.
    """
    silent = EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{end}" for end in _ENDS)},
        posture=Posture.Proactive,
        within=_SILENCE,
        **_OWN_RUNS,
    )
    lost = EventTrigger(
        expect={f"prefect.flow-run.{_LOST}"},
        posture=Posture.Reactive,
        within=timedelta(0),
        **_OWN_RUNS,
    )
    crash = ChangeFlowRunState(
        state=StateType.CRASHED,
        name=_LOST,
        message="No heartbeat came for two minutes.",
        force=False,
    )
    again = ChangeFlowRunState(
        state=StateType.SCHEDULED,
        name="AwaitingRetry",
        message="Another worker goes on.",
        force=False,
    )
    for name, trigger, action in zip(LOST_RUNS, (silent, lost), (crash, again), strict=True):
        for old in client.read_automations_by_name(name):
            client.delete_automation(old.id)
        client.create_automation(AutomationCore(name=name, trigger=trigger, actions=[action]))


def _deploy(file: str, api: str, values: Mapping[str, str]) -> None:
    """Let Prefect itself read the file, so that its own command does the same."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(  # noqa: S603
        [*command, "--prefect-file", file],
        env={**os.environ, **values, "PREFECT_API_URL": api},  # noqa: TID251
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        told = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise DeployError(f"{file}: `prefect deploy --all` failed:\n{redact(told)}")


def _refuse_unknown_parameters(client: SyncPrefectClient, name: str) -> None:
    """Let the server refuse runs with parameters that there are not, which Prefect lets crash."""
    try:
        made = client.read_deployment_by_name(name)
    except ObjectNotFound as error:
        raise DeployError(
            f"{name}: got no such deployment on the server, expected it to be set up; see what "
            "`prefect deploy --all` says"
        ) from error
    schema = made.parameter_openapi_schema or {}
    inner = {key: known | _CLOSED for key, known in schema.get("definitions", {}).items()}
    closed = schema | {"definitions": inner} | _CLOSED
    client.update_deployment(made.id, DeploymentUpdate(parameter_openapi_schema=closed))
