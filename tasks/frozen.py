"""Frozen manifests: the rows of a run, planned in shards, and what happens when they change.

`manifest.json` holds a digest of the rows that the run was begun with, and comes after its plans.
An update is decided by the next card, `manifest.1.json`, which comes before its plans are changed;
`_plans/manifest.1.json` says that they are. So of several updates at once one is believed, and one
that is stopped is continued.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.building import ROW_GROUP, regroup
from manifests.errors import shown
from manifests.schemas import EDITS
from tasks.runs import RunError, run_ledger
from tasks.store.folders import Folder, sha256
from tasks.store.ledger import PLANS, Ledger, LedgerError, generation_name, latest_generation

MANIFEST = "manifest.json"
# Changed rows that are compared column by column.
_COMPARED = 1_000


@dataclass
class ManifestChange:
    """How a manifest differs from the planned rows.

    Attributes:
        added, removed, changed: Rows of each kind.
        examples: One of them in words, by kind.
        columns: How many of the changed rows that were compared differ in each column.
    """

    added: int = 0
    removed: int = 0
    changed: int = 0
    examples: dict[str, str] = field(default_factory=dict)
    columns: Counter[str] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __str__(self) -> str:
        parts = []
        for kind in ("added", "removed", "changed"):
            count, columns = getattr(self, kind), ""
            if count:
                if kind == "changed":
                    columns = f" in {', '.join(name for name, _ in self.columns.most_common())}"
                noun = "row" if count == 1 else "rows"
                such = "such as " if count > 1 else ""
                parts.append(f"{count:,} {noun} {kind}{columns} ({such}{self.examples[kind]})")
        return "; ".join(parts)

    def note(self, kind: str, row: Mapping[str, Any]) -> None:
        """Count a row."""
        setattr(self, kind, getattr(self, kind) + 1)
        asked = f"{row['image_id']} to {shown(row['target_prompt'])}"
        self.examples.setdefault(kind, f"{asked} by {row['method']} at alpha {row['alpha']:g}")


def freeze_manifest(
    folder: Folder, batches: Iterable[pa.RecordBatch], shard_size: int, update: bool = False
) -> int:
    """Plan the shards of a manifest, or check that the run was begun with the same rows.

    Args:
        folder: Of the run.
        batches: Its rows, streamed, and streamed again where they are not the same.
        shard_size: Rows of a shard.
        update: Change the plans where the rows differ: what is new is planned, what is gone leaves
            the results, and all else stays.

    Returns:
        Rows of the manifest.

    Raises:
        RunError: The run was begun with other rows, or the manifest has none.
    """
    ledger = run_ledger(folder)
    if not folder.exists(MANIFEST):
        with suppress(LedgerError):
            return _begin(folder, ledger, batches, shard_size)
        try:
            # Another process may begin it too, with shards of another size.
            return _begin(folder, ledger, batches, shard_size)
        except LedgerError:
            # Begun with other rows, and stopped before all of them were planned.
            if not update:
                raise _refused(folder, _compare(ledger, batches)) from None
            with suppress(FileExistsError):
                folder.create(MANIFEST, _bytes(manifest_card(_planned(ledger, ledger.plans()))))
    number = latest_generation(folder, MANIFEST)
    card = _read_card(folder, number)
    got = manifest_card(map(row_hashes, regroup(batches, ROW_GROUP)))
    if got != card:
        if not update:
            raise _refused(folder, _compare(ledger, batches))
        _require_rows(got["rows"])
        number += 1
        try:
            folder.create(generation_name(MANIFEST, number), _bytes(got))
        except FileExistsError:
            if _read_card(folder, number) != got:
                raise _overtaken(folder) from None
    if number and not folder.exists(_done(number)):
        _follow(folder, number, batches, shard_size, got)
    return int(got["rows"])


def manifest_card(hashes: Iterable[NDArray[np.uint64]]) -> dict[str, Any]:
    """Count rows and digest them, in whatever order and parts they come.

    Args:
        hashes: A hash of each row.
    """
    every = sort_hashes(hashes)
    return {"rows": len(every), "sha256": sha256(every.tobytes())}


def sort_hashes(parts: Iterable[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """Join parts and sort them, once for all questions of `are_among`."""
    return np.sort(np.concatenate([np.zeros(0, np.uint64), *parts]))


def are_among(hashes: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which hashes are among others, which are sorted."""
    places = np.searchsorted(known, hashes)
    found = np.zeros(len(hashes), np.bool_)
    inside = places < len(known)
    found[inside] = known[places[inside]] == hashes[inside]
    return found


def refreeze_manifest(folder: Folder) -> None:
    """Count and digest the plans of a run again, after rows were removed from them for good."""
    if folder.exists(MANIFEST):
        name = generation_name(MANIFEST, latest_generation(folder, MANIFEST))
        ledger = run_ledger(folder)
        folder.write(name, _bytes(manifest_card(_planned(ledger, ledger.plans()))))


def read_card(folder: Folder) -> dict[str, Any]:
    """Return the rows and the digest of the manifest that a run has now; empty where none is."""
    try:
        return require_card(folder)
    except (FileNotFoundError, RunError):
        return {}


def require_card(folder: Folder) -> dict[str, Any]:
    """Return the rows and the digest of the manifest that a run has now.

    Raises:
        FileNotFoundError: There is none.
        RunError: It is damaged.
    """
    return _read_card(folder, latest_generation(folder, MANIFEST))


def _read_card(folder: Folder, number: int) -> dict[str, Any]:
    name = generation_name(MANIFEST, number)
    try:
        card: dict[str, Any] = json.loads(folder.read(name))
    except ValueError as error:
        raise RunError(
            f"{folder.url}/{name}: got a damaged card, expected the digest of the frozen manifest; "
            "remove it, and the command that began or updated the run makes it anew"
        ) from error
    return card


def require_same_manifest(
    folder: Folder, card: Mapping[str, Any], batches: Iterable[pa.RecordBatch]
) -> None:
    """Refuse another manifest than a run was begun with, where it was begun.

    Args:
        folder: Of the run.
        card: See `manifest_card`.
        batches: The rows, which are read again where they differ.

    Raises:
        RunError: It is another.
    """
    if read_card(folder) not in ({}, card):
        raise _refused(folder, _compare(run_ledger(folder), batches))


def _refused(folder: Folder, change: ManifestChange) -> RunError:
    return RunError(
        f"run {folder.url}: got another manifest than it was begun with: {change}; "
        "give --update to compute what is new and take removed rows out of the results, or a new "
        "--run NAME to keep both"
    )


def _overtaken(folder: Folder) -> RunError:
    return RunError(
        f"run {folder.url}: another process updated it with another manifest meanwhile; decide for "
        "one, and give its command again"
    )


def _require_rows(count: int) -> None:
    if not count:
        raise RunError("manifest: got no rows, expected at least one edit")


def _begin(
    folder: Folder, ledger: Ledger, batches: Iterable[pa.RecordBatch], shard_size: int
) -> int:
    """Plan all shards and write the card.

    Raises:
        LedgerError: Other rows are planned.
    """
    if ledger.plans():
        # Stopped before: the shards have the size that they were begun with, if one still tells.
        shard_size = len(ledger.units(0)) or shard_size
    hashes = list[NDArray[np.uint64]]()
    for shard, table in enumerate(regroup(batches, shard_size)):
        ledger.plan_shard(shard, table)
        hashes.append(row_hashes(table))
    _require_rows(len(hashes))
    if len(ledger.plans()) != len(hashes):
        raise LedgerError(f"{folder.url}: got fewer rows than those planned before")
    card = manifest_card(hashes)
    try:
        folder.create(MANIFEST, _bytes(card))
    except FileExistsError:
        if _read_card(folder, 0) != card:
            raise RunError(
                f"run {folder.url}: another process began it with another manifest; give the same, "
                "or take a new run name"
            ) from None
    return int(card["rows"])


def _follow(
    folder: Folder,
    number: int,
    batches: Iterable[pa.RecordBatch],
    shard_size: int,
    card: Mapping[str, Any],
) -> None:
    """Change the plans as an update decided, of which others may be under way.

    Raises:
        RunError: A later one was decided meanwhile.
    """
    ledger = run_ledger(folder)
    while True:
        _replan(ledger, batches, shard_size)
        folder.write(_done(number), b"{}")
        latest = latest_generation(folder, MANIFEST)
        if latest != number:
            # Rows may have come into its plans from here after they were done.
            folder.remove(_done(latest))
            raise _overtaken(folder)
        if manifest_card(_planned(ledger, ledger.plans())) == card:
            return
        # Rows came from one that was overtaken.
        folder.remove(_done(number))


def _done(number: int) -> str:
    """Name of the file that says that the plans are as the card of this number."""
    return f"{PLANS}/{generation_name(MANIFEST, number)}"


def _replan(ledger: Ledger, batches: Iterable[pa.RecordBatch], shard_size: int) -> None:
    """Make the plans hold each row of the manifest once and no other, whatever they hold now."""
    wanted = sort_hashes(hashes for _, hashes in _with_hashes(batches))
    seen = np.zeros(len(wanted), np.bool_)
    for shard in ledger.plans():
        units = ledger.units(shard)
        hashes = row_hashes(units)
        kept = are_among(hashes, wanted)
        places = np.searchsorted(wanted, hashes[kept])
        kept[kept] = ~seen[places]
        seen[places] = True
        if not kept.all():
            ledger.replan_shard(shard, units.filter(pa.array(kept)))
    while True:
        # Those that others plan from now on collide with these.
        shards = ledger.plans()
        planned = sort_hashes(_planned(ledger, shards))
        fresh = regroup(_fresh(batches, planned), shard_size)
        try:
            for shard, units in enumerate(fresh, shards[-1] + 1):
                ledger.plan_shard(shard, units)
            return
        except LedgerError:
            # Another process planned some of them meanwhile, in shards of another size.
            continue


def _fresh(
    batches: Iterable[pa.RecordBatch], planned: NDArray[np.uint64]
) -> Iterator[pa.RecordBatch]:
    """The rows that are not planned."""
    for table, hashes in _with_hashes(batches):
        yield from table.filter(pa.array(~are_among(hashes, planned))).to_batches()


def _compare(ledger: Ledger, batches: Iterable[pa.RecordBatch]) -> ManifestChange:
    """Say how a manifest differs from the plans; 16 bytes a row are held."""
    change, before = ManifestChange(), dict[str, dict[str, Any]]()
    wanted, names = list[NDArray[np.uint64]](), list[NDArray[np.uint64]]()
    for table, hashes in _with_hashes(batches):
        wanted.append(hashes)
        names.append(_hashes(table["pair_id"].to_pylist()))
    _require_rows(len(wanted))
    all_wanted, all_names = sort_hashes(wanted), sort_hashes(names)
    left = list[NDArray[np.uint64]]()
    for shard in ledger.plans():
        units = ledger.units(shard)
        gone = units.filter(pa.array(~are_among(row_hashes(units), all_wanted))).to_pylist()
        hashes = _hashes([row["pair_id"] for row in gone])
        left.append(hashes)
        for row, renamed in zip(gone, are_among(hashes, all_names), strict=True):
            change.note("changed" if renamed else "removed", row)
            if renamed and len(before) < _COMPARED:
                before[row["pair_id"]] = row
    planned, all_left = sort_hashes(_planned(ledger, ledger.plans())), sort_hashes(left)
    for table, hashes in _with_hashes(batches):
        fresh = table.filter(pa.array(~are_among(hashes, planned))).to_pylist()
        changed = are_among(_hashes([row["pair_id"] for row in fresh]), all_left)
        for row, is_changed in zip(fresh, changed, strict=True):
            if not is_changed:
                change.note("added", row)
            elif old := before.get(row["pair_id"]):
                change.columns.update(name for name in row if row[name] != old[name])
    return change


def _with_hashes(
    batches: Iterable[pa.RecordBatch],
) -> Iterator[tuple[pa.Table, NDArray[np.uint64]]]:
    for table in regroup(batches, ROW_GROUP):
        yield table, row_hashes(table)


def _planned(ledger: Ledger, shards: Iterable[int]) -> list[NDArray[np.uint64]]:
    return [row_hashes(ledger.units(shard)) for shard in shards]


def row_hashes(table: pa.Table) -> NDArray[np.uint64]:
    """A hash of every row of a manifest."""
    return _hashes([json.dumps([*row.values()]) for row in table.select(EDITS.names).to_pylist()])


def _bytes(card: dict[str, Any]) -> bytes:
    return json.dumps(card).encode()


def _hashes(texts: Iterable[str]) -> NDArray[np.uint64]:
    digests = (hashlib.sha256(text.encode()).digest()[:8] for text in texts)
    return np.frombuffer(b"".join(digests), np.uint64)
