"""The tables of a run and of its workspace, as a report reads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from manifests.schemas import FACES
from tasks.ledger import Ledger
from tasks.pictures import Places
from tasks.runs import read_run_values, run_ledger
from tasks.storage import Folder, split_url


@dataclass(frozen=True)
class RunTables:
    """What is known of a run.

    Attributes:
        places: Where it is.
        values: Of its `run.json`.
        ledger: Of its results.
        shards: Those that are committed.
        faces: The ledger of the workspace's faces.
        waiting: Planned rows without a committed result.
    """

    places: Places
    values: Mapping[str, Any]
    ledger: Ledger
    shards: frozenset[int]
    faces: Ledger
    waiting: int


def read_run(run_url: str) -> RunTables:
    """Read the tables of a run and of its workspace.

    Raises:
        RunError: There is no such run.
    """
    folder = Folder(run_url)
    values = read_run_values(folder)
    ledger, places = run_ledger(folder), places_of(folder, values)
    shards = frozenset(ledger.committed())
    return RunTables(
        places,
        values,
        ledger,
        shards,
        Ledger(places.workspace / "faces", FACES),
        sum(len(ledger.units(shard)) for shard in ledger.plans() if shard not in shards),
    )


def places_of(folder: Folder, values: Mapping[str, Any]) -> Places:
    """Return where a run and its workspace are.

    Args:
        folder: Of the run.
        values: Of its `run.json`.
    """
    parent, _ = split_url(folder.url)
    began = str(values.get("workspace") or split_url(parent.url)[0].url)
    # A workspace may have been moved as a whole; a run outside one names its own.
    workspace = split_url(parent.url)[0] if parent.name == "runs" else Folder(began)
    return Places(folder, workspace, began)
