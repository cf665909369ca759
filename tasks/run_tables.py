"""The tables of a run and of its workspace, as a report reads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from manifests.schemas import FACES, RESULTS
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
        results: Its committed rows.
        faces: All rows of the workspace's faces.
        waiting: Planned rows without a committed result.
    """

    places: Places
    values: Mapping[str, Any]
    results: pa.Table
    faces: pa.Table
    waiting: int


def read_run(run_url: str) -> RunTables:
    """Read the tables of a run and of its workspace.

    Raises:
        RunError: There is no such run.
        LedgerError: Results are not what was committed.
    """
    folder = Folder(run_url)
    values = read_run_values(folder)
    ledger, places = run_ledger(folder), places_of(folder, values)
    faces = Ledger(places.workspace / "faces", FACES)
    return RunTables(
        places,
        values,
        pa.concat_tables([RESULTS.empty_table(), *ledger.results()]),
        pa.concat_tables([FACES.empty_table(), *faces.results()]),
        sum(len(ledger.units(shard)) for shard in ledger.pending()),
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
