"""The tables of a run and of its workspace, as a report reads them."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.schemas import LATENTS
from tasks.directions import BLOCKS
from tasks.mappers import LOG
from tasks.photos.faces import faces_ledger
from tasks.places import RunPlaces
from tasks.runs import RUN, RunError, read_run_values, run_folder, run_ledger, run_places
from tasks.store.folders import Folder, split_url
from tasks.store.ledger import Ledger, read_table


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

    places: RunPlaces
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
    ledger, places = run_ledger(folder), run_places(folder)
    shards = frozenset(ledger.committed())
    return RunTables(
        places,
        values,
        ledger,
        shards,
        faces_ledger(places.workspace.url),
        sum(len(ledger.units(shard)) for shard in ledger.plans() if shard not in shards),
    )


@dataclass(frozen=True)
class Stage:
    """What a stage did for a run.

    Attributes:
        name: Of its command.
        counts: What it made by status, or by kind where it has no statuses.
        seconds: Of one worker; 0 where the time was not kept.
    """

    name: str
    counts: Mapping[str, int]
    seconds: float

    @property
    def total(self) -> int:
        """Everything that it made, or failed to."""
        return sum(self.counts.values())


def find_run(place: str, run: str) -> str:
    """Return the URL of a run: a folder that is one, or the run of that name in a workspace."""
    return Folder(place).url if Folder(place).exists(RUN) else run_folder(place, run).url


def find_judged_run(place: str, run: str, others: Sequence[str]) -> str:
    """Return the URL of a run to be judged, see `find_run`.

    Args:
        place: Folder of the run, or a workspace.
        run: Its name in a workspace.
        others: Runs to compare it with.

    Raises:
        RunError: It is none, and the first of the others may have been meant.
    """
    found = find_run(place, run)
    if others and not Folder(found).exists(RUN):
        raise RunError(
            f"run: got {found}, which is none, and {', '.join(others)} to compare it with; which "
            f"run is judged is told by an option, as in `--run {others[0]}`"
        )
    return found


def find_other_run(url: str, other: str, run: str) -> str:
    """Return the URL of a run to compare one with.

    Args:
        url: Of the one.
        other: A run's name in the same workspace, its folder, or another workspace.
        run: Name of the run in another workspace.
    """
    return find_run(other, run) if "/" in other else split_url(url)[0].url_of(other)


def read_stages(run: RunTables, statuses: Mapping[str, int]) -> Iterator[Stage]:
    """Tell what every stage did for a run, and how long it took.

    Args:
        run: The run.
        statuses: Of its result rows.
    """
    yield Stage("align", _statuses(run.faces), run.faces.work()[1])
    latents = _known(run, "latents")
    if latents:
        ledger = Ledger(latents, LATENTS)
        yield Stage("invert", _statuses(ledger), ledger.work()[1])
    directions = _known(run, "directions")
    if directions:
        shards, seconds = Ledger(directions, BLOCKS).work()
        yield Stage("relevance", {"shards": shards}, seconds)
    logs = [run.places.find(url) for url in run.values.get("mappers") or ()]
    steps = [read_table(Folder(url).read(LOG)) for url in logs if url and Folder(url).exists(LOG)]
    if steps:
        seconds = sum(sum(filter(None, log["seconds"].to_pylist())) for log in steps)
        yield Stage("train-mapper", {"steps": sum(map(len, steps))}, seconds)
    yield Stage("edit", statuses, run.ledger.work()[1])


def count_copies(run: RunTables, names: Collection[str]) -> int:
    """Count faces of photographs that equal those of others byte by byte.

    Args:
        run: The run.
        names: Image ids of the faces.
    """
    wanted, found = pa.array(names, pa.string()), Counter[tuple[str, int]]()
    for table in run.faces.results():
        known = pc.and_(pc.is_in(table["image_id"], wanted), pc.is_valid(table["source_sha256"]))
        own = table.filter(known)
        columns = (own[name].to_pylist() for name in ("source_sha256", "face_index"))
        found.update(zip(*columns, strict=True))
    return found.total() - len(found)


def _known(run: RunTables, name: str) -> Folder | None:
    url = run.places.find(str(run.values.get(name) or ""))
    return Folder(url) if url else None


def _statuses(ledger: Ledger) -> dict[str, int]:
    counts = Counter[str]()
    for table in ledger.results():
        counts.update(table["status"].to_pylist())
    return dict(counts.most_common())
