"""Run folders: a frozen manifest, what it is run with, and its results."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa

from manifests.building import regroup
from manifests.schemas import RESULTS
from tasks.directions import DirectionStore
from tasks.latents import LatentStore, latent_folder
from tasks.ledger import Ledger, table_bytes
from tasks.models import Models, Role, open_models
from tasks.provenance import CODE_VERSION
from tasks.storage import Folder

RUN, MANIFEST = "run.json", "manifest.json"
ImageFormat = Literal["png", "webp"]
OutputLayout = Literal["files", "webdataset"]


class RunError(ValueError):
    """A run is asked to continue with something else than it was begun with."""


@dataclass(frozen=True)
class RunSettings:
    """What a run is made with; written once, and compared whenever the run continues.

    Attributes:
        workspace: URL of the workspace.
        models: URL of the bundle.
        fingerprints: Of the networks, by role.
        latents: URL of the W+ store.
        directions: URL of the direction store, empty where no row needs one.
        directions_fingerprint: Of its content.
        image_format: Of the edited images.
        output: Single files, or tar shards in the layout of webdataset.
        batch_size: Edits that go through the networks together.
        code_version: Of the code that began the run.
    """

    workspace: str
    models: str
    fingerprints: Mapping[str, str]
    latents: str
    directions: str
    directions_fingerprint: str
    image_format: ImageFormat = "png"
    output: OutputLayout = "files"
    batch_size: int = 8
    code_version: str = CODE_VERSION


def run_folder(workspace: str, run: str) -> Folder:
    """Return the folder of a run: its name in the workspace, or its URL."""
    return Folder(run) if "/" in run else Folder(workspace) / "runs" / run


def run_ledger(folder: Folder) -> Ledger:
    """Return the ledger of a run."""
    return Ledger(folder, RESULTS)


def settings_for(
    workspace: str,
    models: str,
    device: str,
    directions: DirectionStore | None,
    image_format: ImageFormat,
    output: OutputLayout,
    batch_size: int,
) -> RunSettings:
    """Gather what a run is made with.

    Raises:
        DirectionStoreError: The direction store is not finished.
    """
    networks = open_models(models, device)
    wanted: tuple[Role, ...] = ("generator", "encoder", "clip", "identity")
    roles = [role for role in wanted if networks.has(role)]
    return RunSettings(
        workspace=Folder(workspace).url,
        models=models,
        fingerprints=networks.fingerprints(*roles) | {"judge": judge_fingerprint(networks)},
        latents=latent_folder(Folder(workspace), networks).url,
        directions=directions.folder.url if directions else "",
        directions_fingerprint=directions.read().fingerprint if directions else "",
        image_format=image_format,
        output=output,
        batch_size=batch_size,
    )


def judge_fingerprint(networks: Models) -> str:
    """Return the fingerprint of the CLIP that judges."""
    return networks.fingerprint("judge" if networks.has("judge") else "clip")


def open_run(folder: Folder, settings: RunSettings) -> None:
    """Begin a run, or check that it continues with the same settings.

    Raises:
        RunError: A setting differs; the message names it.
    """
    wanted = {"name": folder.name} | asdict(settings)
    try:
        folder.create(RUN, json.dumps(wanted, indent=2, sort_keys=True).encode())
    except FileExistsError:
        got = read_run_values(folder)
        differing = [name for name in wanted if got.get(name) != wanted[name]]
        if differing:
            lines = [f"  {n}: got {wanted[n]!r}, begun with {got.get(n)!r}" for n in differing]
            raise RunError(
                f"run {folder.url}: asked to continue with other settings; take a new run name, "
                "or the settings that it was begun with:\n" + "\n".join(lines)
            ) from None


def read_settings(folder: Folder) -> RunSettings:
    """Read what a run is made with.

    Raises:
        RunError: There is no such run.
    """
    values = read_run_values(folder)
    return RunSettings(**{name: values[name] for name in RunSettings.__dataclass_fields__})


def read_run_values(folder: Folder) -> dict[str, Any]:
    """Return run.json as plain values.

    Raises:
        RunError: There is no such run.
    """
    try:
        values: dict[str, Any] = json.loads(folder.read(RUN))
    except FileNotFoundError:
        raise RunError(
            f"run: got {folder.url}, which holds no {RUN}, expected the folder of a run"
        ) from None
    return values


def freeze_manifest(folder: Folder, batches: Iterable[pa.RecordBatch], shard_size: int) -> int:
    """Plan the shards of a manifest, or check that the run was begun with the same.

    Args:
        folder: Of the run.
        batches: Its rows, streamed.
        shard_size: Rows of a shard.

    Returns:
        Rows of the manifest.

    Raises:
        LedgerError: The run was begun with other rows.
        RunError: The run was begun with more rows, or the manifest has none.
    """
    ledger, digest, rows, shards = run_ledger(folder), hashlib.sha256(), 0, 0
    for table in regroup(batches, shard_size):
        ledger.plan_shard(shards, table)
        digest.update(table_bytes(table))
        rows, shards = rows + len(table), shards + 1
    if not rows:
        raise RunError("manifest: got no rows, expected at least one edit")
    card = json.dumps({"rows": rows, "shards": shards, "sha256": digest.hexdigest()}).encode()
    try:
        folder.create(MANIFEST, card)
    except FileExistsError:
        got = json.loads(folder.read(MANIFEST))
        if got["rows"] != rows:
            raise RunError(
                f"run {folder.url}: got a manifest of {rows} rows, expected the {got['rows']} that "
                "it was begun with; take a new run name"
            ) from None
    return rows


def refreeze_manifest(folder: Folder) -> None:
    """Count and digest the plans of a run again, after rows were removed from them for good."""
    ledger, digest, rows = run_ledger(folder), hashlib.sha256(), 0
    if not folder.exists(MANIFEST):
        return
    for shard in ledger.plans():
        units = ledger.units(shard)
        digest.update(table_bytes(units))
        rows += len(units)
    card = {"rows": rows, "shards": len(ledger.plans()), "sha256": digest.hexdigest()}
    folder.write(MANIFEST, json.dumps(card).encode())


def store_of(settings: RunSettings) -> LatentStore:
    """Return the W+ store of a run."""
    return LatentStore(Folder(settings.latents))
