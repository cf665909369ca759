"""The ledger of a stage: which shards of work are planned, which are committed, and their results.

A plan is a create-only table of units of work. A commit is a create-only record that names the
parts of the results with their sizes and digests. Parts without a commit do not count. So a stage
that is stopped anywhere continues with its pending shards, and of several writers of one shard
exactly one is believed.

Plans and commits are not changed, but may be superseded by a later generation: `shard-00003.json`
by `shard-00003.1.json`, and so on. The latest counts, and again exactly one writer makes it. Two
things rewrite them in place: `forget`, which takes rows out of all generations, and
`readdress_shard`, which gives URIs in a plan fresh signatures.
"""

import io
import json
import time
import uuid
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.store.folders import Folder, sha256
from tasks.store.redaction import redact_table

# A row of a table, by column.
Row = dict[str, Any]

PLANS, PARTS, COMMITS = "_plans", "results", "_commits"
# Shards that are searched for failures to tell; a report counts all.
LOOKED_AT = 200


class LedgerError(ValueError):
    """A ledger contradicts itself or what it is asked to plan."""


@dataclass(frozen=True)
class Part:
    """A committed file of result rows."""

    name: str
    sha256: str
    size: int
    rows: int


@dataclass(frozen=True)
class Commit:
    """The record that makes a shard's results count.

    Attributes:
        shard: Its number.
        parts: Where the rows are, in order.
        facts: Plain values that the stage wants kept, by name.
        generation: How many commits of the shard it supersedes.
    """

    shard: int
    parts: tuple[Part, ...]
    facts: Mapping[str, object]
    generation: int = 0


class Ledger:
    """Keep the shards of a stage.

    Args:
        folder: Of the stage.
        results: Schema of the result rows.
        key: Column that tells units, and results, apart, where plans can be superseded.
    """

    def __init__(self, folder: Folder, results: pa.Schema, key: str = "") -> None:
        self.folder, self._schema, self._key = folder, results, key
        self._began = time.monotonic()
        self._written: set[str] = set()

    def plans(self) -> list[int]:
        """Return the numbers of all planned shards, ascending."""
        return sorted(self._generations(PLANS, ".parquet"))

    def committed(self) -> list[int]:
        """Return the numbers of all committed shards, ascending."""
        return sorted(self._generations(COMMITS, ".json"))

    def is_committed(self, shard: int) -> bool:
        """Return whether a shard is committed, also where its first commit was lost since."""
        return any(self.folder.exists(_commit_name(shard, n)) for n in (0, 1))

    def pending(self) -> list[int]:
        """Return the numbers of all shards that are planned and not committed, ascending."""
        done = set(self.committed())
        return [shard for shard in self.plans() if shard not in done]

    def lacking_commits(self) -> list[int]:
        """Return the numbers of pending shards of which there are results, ascending."""
        stored = {name.rpartition("-")[0] for name in (self.folder / PARTS).names(".parquet")}
        return [shard for shard in self.pending() if _part_name(shard) in stored]

    def lost_commits(self) -> list[int]:
        """Return the numbers of shards with a commit that superseded one that is lost, ascending.

        Of these another commit may count than the latest.
        """
        found = dict[int, list[int]]()
        for shard, generation in map(_numbers, (self.folder / COMMITS).names(".json")):
            found.setdefault(shard, []).append(generation)
        return sorted(shard for shard, numbers in found.items() if len(numbers) <= max(numbers))

    def to_do(
        self,
        is_again: Callable[[pa.Table], bool] | None = None,
        own: Callable[[Sequence[int]], Sequence[int]] = sorted,
    ) -> list[int]:
        """Return the shards that are not committed, or are to be done again, ascending.

        Args:
            is_again: Whether result rows are to be done again; none are where None.
            own: Returns those of some shards that are looked at.
        """
        shards = {*own(self.pending())}
        if is_again is not None:
            shards.update(s for s in own(self.committed()) if is_again(self.rows(s)))
        return sorted(shards)

    def plan_shard(self, shard: int, units: pa.Table) -> None:
        """Plan one shard; planning the same again changes nothing.

        Raises:
            LedgerError: The shard is planned with other units.
        """
        content = table_bytes(units)
        try:
            self.folder.create(_plan_name(shard), content)
        except FileExistsError:
            if self.units(shard).equals(units):
                return
            raise LedgerError(
                f"shard {shard} of {self.folder.url}: got other rows than those planned before; "
                "give the same input, or take a new run name"
            ) from None

    def replan_shard(self, shard: int, units: pa.Table) -> None:
        """Supersede the plan of a shard by one with fewer units; results of the others go.

        Raises:
            LedgerError: Another writer superseded the plan meanwhile, in another way.
        """
        generation = latest_generation(self.folder, _plan_name(shard)) + 1
        try:
            self.folder.create(_plan_name(shard, generation), table_bytes(units))
        except FileExistsError:
            if not self.units(shard).equals(units):
                raise LedgerError(
                    f"shard {shard} of {self.folder.url}: got a plan that another process changed "
                    "meanwhile, expected to be the only one; give the same command to continue"
                ) from None

    def readdress_shard(self, shard: int, units: pa.Table) -> None:
        """Write a plan again whose units are the same and lie elsewhere, as behind fresh links.

        Raises:
            LedgerError: The shard has another number of units.
        """
        if len(units) != len(self.units(shard)):
            raise LedgerError(
                f"shard {shard} of {self.folder.url}: got {len(units)} units, expected those that "
                "are planned"
            )
        self.folder.write(_plan_name(shard), table_bytes(units))

    def extend(
        self,
        units: pa.Table,
        key: str,
        shard_size: int,
        check: Callable[[pa.Table], None] | None = None,
        after: int = -1,
    ) -> list[int]:
        """Plan the units whose key is in no plan yet, in new shards.

        Args:
            units: Rows that may be planned already.
            key: Column that tells units apart.
            shard_size: Most units in a shard.
            check: Called with the units of each plan that is there; raises where new ones may not
                stand beside them.
            after: The last plan that is known to have none of the units; later ones are read.

        Returns:
            The numbers of the new shards. Units that another writer planned meanwhile are not
            planned twice.
        """
        new, known, read = list[int](), set[str](), after
        while True:
            plans = self.plans()
            for planned in (self.units(shard) for shard in plans if shard > read):
                if check:
                    check(planned)
                known.update(planned[key].to_pylist())
            read = plans[-1] if plans else -1
            fresh = _without(units, key, known)
            try:
                for start in range(0, len(fresh), shard_size):
                    part = fresh.slice(start, shard_size)
                    self.folder.create(_plan_name(read + 1), table_bytes(part))
                    read += 1
                    known.update(part[key].to_pylist())
                    new.append(read)
            except FileExistsError:
                continue
            return new

    def units(self, shard: int) -> pa.Table:
        """Return the units of a planned shard."""
        name = _plan_name(
            shard, latest_generation(self.folder, _plan_name(shard)) if self._key else 0
        )
        return self._read_plan(name)

    def commit(
        self,
        shard: int,
        rows: pa.Table,
        facts: Mapping[str, object] | None = None,
        after: Commit | None = None,
    ) -> Commit:
        """Write the results of a shard and commit them.

        Args:
            shard: Its number.
            rows: Its results; the columns must be those of the ledger's schema.
            facts: Plain values to keep in the record, beside the seconds since this was made.
            after: The commit to supersede; none where None.

        Returns:
            The commit that counts: another writer's, if it came first.
        """
        content = table_bytes(redact_table(rows.select(self._schema.names).cast(self._schema)))
        name = f"{_part_name(shard)}-{uuid.uuid4().hex[:8]}.parquet"
        part = Part(name, sha256(content), len(content), len(rows))
        (self.folder / PARTS).create(name, content)
        self._written.add(name)
        generation = after.generation + 1 if after else 0
        seconds = round(time.monotonic() - self._began, 3)
        mine = Commit(shard, (part,), {"seconds": seconds} | dict(facts or {}), generation)
        record = json.dumps(asdict(mine), indent=1, sort_keys=True).encode()
        try:
            self.folder.create(_commit_name(shard, generation), record)
        except FileExistsError:
            # A store may have taken my record and lost its answer, and refuse it the second time.
            if self._read_commit(shard, generation).parts != mine.parts:
                (self.folder / PARTS).remove(name)
            return self.read_commit(shard)
        return mine

    def wrote(self, commit: Commit) -> bool:
        """Return whether a commit that counts was made here, and not by another writer."""
        return any(part.name in self._written for part in commit.parts)

    def commit_stored(
        self,
        shard: int,
        rows: pa.Table,
        digest: str,
        stored: Callable[[], str],
        store: Callable[[], object],
        facts: Mapping[str, object] | None = None,
        after: Commit | None = None,
    ) -> Commit:
        """Commit rows about data that lie beside the ledger, where writers overwrite each other.

        Where numbers depend on the machine, a writer that comes second may have written over the
        data of the one that was believed. It then commits its own rows, so that in the end rows
        and data are of one writer.

        Args:
            shard: Its number.
            rows: Its results.
            digest: Of the data that were written for it, kept as the fact `sha256`.
            stored: Gives the digest of the data that lie there.
            store: Writes the data again.
            facts: More plain values to keep in the record.
            after: The commit to supersede; none where None.

        Returns:
            The commit that counts.
        """
        facts = {**(facts or {}), "sha256": digest}
        commit = self.commit(shard, rows, facts, after)
        if commit.facts.get("sha256") != digest:
            while stored() != commit.facts.get("sha256"):
                store()
                commit = self.commit(shard, rows, facts, commit)
        return commit

    def read_commit(self, shard: int) -> Commit:
        """Return the record of a committed shard."""
        return self._read_commit(shard, latest_generation(self.folder, _commit_name(shard)))

    def first_commit(self, shard: int) -> Commit | None:
        """Return the first record of a shard, which may not count any more; None if it is lost."""
        try:
            return self._read_commit(shard, 0)
        except FileNotFoundError:
            return None

    def work(self) -> tuple[int, float]:
        """Return the result rows of the committed shards, and the seconds that all commits took.

        Also those that do not count any more. Commits from before the time was kept have none.
        """
        rows, seconds, latest = 0, 0.0, self._generations(COMMITS, ".json")
        for commit in self.commits():
            seconds += float(str(commit.facts.get("seconds", 0)))
            if commit.generation == latest.get(commit.shard):
                rows += sum(part.rows for part in commit.parts)
        return rows, seconds

    def history(self, shard: int) -> Iterator[tuple[Commit, pa.Table]]:
        """Yield every commit of a shard with its rows, also those that do not count any more.

        Raises:
            LedgerError: A part is not what was committed.
        """
        latest = (
            latest_generation(self.folder, _commit_name(shard)) if self.is_committed(shard) else -1
        )
        for generation in range(latest + 1):
            commit = self._read_commit(shard, generation)
            yield commit, self._rows(commit, superseded=False)

    def commits(self) -> Iterator[Commit]:
        """Yield every commit, also those that do not count any more."""
        for name in (self.folder / COMMITS).names(".json"):
            yield self._read_commit(*_numbers(name))

    def rows(self, shard: int) -> pa.Table:
        """Return the result rows of a committed shard.

        Raises:
            LedgerError: A part is not what was committed.
        """
        superseded = bool(self._key) and self.folder.exists(_plan_name(shard, 1))
        return self._rows(self.read_commit(shard), superseded)

    def results(self, shards: Collection[int] | None = None) -> Iterator[pa.Table]:
        """Yield the result rows of the committed shards, one table a shard, ascending.

        Args:
            shards: Only these; all where None.

        Raises:
            LedgerError: A part is not what was committed.
        """
        plans = self._generations(PLANS, ".parquet") if self._key else {}
        for shard, generation in sorted(self._generations(COMMITS, ".json").items()):
            if shards is None or shard in shards:
                yield self._rows(self._read_commit(shard, generation), plans.get(shard, 0) > 0)

    def ok_rows(self, *columns: str) -> pa.Table:
        """Return columns of the rows that have the status ok; kept until a commit changes that.

        Of a ledger whose plans are never superseded.
        """
        versions = (self.folder / COMMITS).versions()
        return _ok_rows(self.folder.url, self._schema, columns, versions)

    def has_ok(self) -> bool:
        """Return whether some result row has the status ok."""
        return any("ok" in rows["status"].to_pylist() for rows in self.results())

    def tables(self) -> Iterator[pa.Table]:
        """Yield every plan and every committed part, also those that do not count any more."""
        for name in (self.folder / PLANS).names(".parquet"):
            yield self._read_plan(f"{PLANS}/{name}")
        for name in (self.folder / COMMITS).names(".json"):
            for part in self._read_record(f"{COMMITS}/{name}")["parts"]:
                yield self._read_part(part)

    def forget(
        self,
        keep: Callable[[pa.Table], pa.Table],
        keep_units: Callable[[pa.Table], pa.Table],
        recount: Callable[[int, Mapping[str, object], pa.Table], Mapping[str, object]],
    ) -> int:
        """Rewrite every plan and every commit without some rows, also those that do not count.

        No other process may be at work on the stage. Each file is replaced at once, results before
        plans; stopped anywhere, the same call completes it.

        Args:
            keep: Returns the result rows that stay.
            keep_units: Returns the units that stay.
            recount: Returns the facts of a commit, given its shard, its facts, and its rows.

        Returns:
            Result rows removed.

        Raises:
            LedgerError: A part is not what was committed, so that its rows cannot be removed.
        """
        removed, named = 0, set[str]()
        for name in (self.folder / COMMITS).names(".json"):
            values = self._read_record(f"{COMMITS}/{name}")
            old = values["parts"]
            before = [self._read_part(part) for part in old]
            after = [keep(table) for table in before]
            new = [self._rewritten(*pair) for pair in zip(old, before, after, strict=True)]
            if new != old:
                rows = pa.concat_tables(after)
                removed += sum(map(len, before)) - len(rows)
                facts = recount(values["shard"], values["facts"], rows)
                values |= {"parts": [asdict(part) for part in new], "facts": dict(facts)}
                record = json.dumps(values, indent=1, sort_keys=True).encode()
                (self.folder / COMMITS).write(name, record)
            named.update(part.name for part in new)
        # Also what a writer left that was killed before its commit.
        for name in set((self.folder / PARTS).names()) - named:
            (self.folder / PARTS).remove(name)
        for name in (self.folder / PLANS).names(".parquet"):
            units = self._read_plan(f"{PLANS}/{name}")
            kept = keep_units(units)
            if not kept.equals(units):
                (self.folder / PLANS).write(name, table_bytes(kept))
        return removed

    def _rewritten(self, part: Part, before: pa.Table, after: pa.Table) -> Part:
        if len(before) == len(after):
            return part
        content = table_bytes(after)
        name = f"{part.name.rpartition('-')[0]}-{uuid.uuid4().hex[:8]}.parquet"
        (self.folder / PARTS).create(name, content)
        return Part(name, sha256(content), len(content), len(after))

    def _rows(self, commit: Commit, superseded: bool) -> pa.Table:
        rows = pa.concat_tables([self._read_part(part) for part in commit.parts])
        if not superseded:
            return rows
        return rows.filter(pc.is_in(rows[self._key], self.units(commit.shard)[self._key]))

    def _read_commit(self, shard: int, generation: int) -> Commit:
        values = self._read_record(_commit_name(shard, generation))
        return Commit(shard, tuple(values["parts"]), values["facts"], generation)

    def _read_record(self, name: str) -> dict[str, Any]:
        """The values of a commit, its parts as such."""
        content = self.folder.read(name)
        try:
            values: dict[str, Any] = json.loads(content)
            parts = [Part(**part) for part in values["parts"]]
            return values | {"parts": parts, "facts": dict(values["facts"])}
        except (ValueError, LookupError, TypeError) as error:
            raise LedgerError(
                f"{self.folder.url}/{name}: got a damaged commit, expected what a stage wrote; "
                f"restore it from a copy, or remove {self._computing_again(name)}"
            ) from error

    def _read_plan(self, name: str) -> pa.Table:
        content = self.folder.read(name)
        try:
            return read_table(content)
        except (pa.ArrowException, OSError) as error:
            # Where plans can be superseded, what is planned is fixed elsewhere too.
            again = "" if self._key else f", or remove it and {self._computing_again(name)}"
            raise LedgerError(
                f"{self.folder.url}/{name}: got a damaged plan, expected what a stage wrote; "
                f"restore it from a copy{again}"
            ) from error

    def _computing_again(self, name: str) -> str:
        """What to remove so that the shard of a file is computed again, and that it is."""
        commits = f"{self.folder.url}/{COMMITS}/shard-{name.split('-')[1].split('.')[0]}*.json"
        return f"{commits}, and the command that made the shard computes it again"

    def _generations(self, kind: str, suffix: str) -> dict[int, int]:
        """The latest generation of every shard's plan or commit."""
        found = dict[int, int]()
        for shard, generation in map(_numbers, (self.folder / kind).names(suffix)):
            found[shard] = max(generation, found.get(shard, 0))
        return found

    def _read_part(self, part: Part) -> pa.Table:
        try:
            content = (self.folder / PARTS).read(part.name)
        except FileNotFoundError:
            content = b""
        if sha256(content) != part.sha256:
            got = f"{len(content)} bytes with another digest" if content else "no such file"
            raise LedgerError(
                f"{self.folder.url}/{PARTS}/{part.name}: got {got}, expected the {part.size} "
                f"that were committed; restore it from a copy, or remove "
                f"{self._computing_again(part.name)}"
            )
        rows = _with_later_columns(read_table(content), self._schema).cast(self._schema)
        if len(rows) != part.rows:
            raise LedgerError(
                f"{self.folder.url}/{PARTS}/{part.name}: got {len(rows)} rows, expected the "
                f"{part.rows} that were committed; restore the commit from a copy"
            )
        return rows


@lru_cache(maxsize=4)
def _ok_rows(url: str, schema: pa.Schema, columns: Sequence[str], _: Hashable) -> pa.Table:
    results = Ledger(Folder(url), schema).results()
    usable = (table.filter(pc.equal(table["status"], "ok")) for table in results)
    chosen = [table.select(columns) for table in (schema.empty_table(), *usable)]
    return pa.concat_tables(chosen).combine_chunks()


def table_bytes(table: pa.Table) -> bytes:
    """Write a table as Parquet; equal tables give equal bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def read_table(content: bytes) -> pa.Table:
    """Read a table from the bytes of a Parquet file.

    By this thread alone: a thread of Arrow's that still holds bytes of Python's when a command
    ends aborts the process (https://github.com/apache/arrow/issues/34314).
    """
    file = pq.ParquetFile(
        pa.BufferReader(content), pre_buffer=False, page_checksum_verification=True
    )
    table = file.read(use_threads=False)
    # The header of a page has no checksum, and one that is damaged may hold fewer rows.
    if len(table) != file.metadata.num_rows:
        raise pa.ArrowInvalid(f"got {len(table)} rows, expected {file.metadata.num_rows}")
    return table


def _with_later_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Give a table those columns of a schema, all null, that there were not when it was written."""
    later = [field for field in schema if field.nullable and field.name not in table.column_names]
    for field in later:
        table = table.append_column(field, pa.nulls(len(table), field.type))
    known = [name for name in schema.names if name in table.column_names]
    return table.select([*known, *(name for name in table.column_names if name not in known)])


def _without(units: pa.Table, key: str, known: Collection[str]) -> pa.Table:
    return units.filter(
        pa.array([value not in known for value in units[key].to_pylist()], pa.bool_())
    )


def generation_name(name: str, number: int) -> str:
    """Return the name of a file that supersedes `name`: run.json, run.1.json, ..."""
    stem, suffix = name.rsplit(".", 1)
    return f"{stem}.{number}.{suffix}" if number else name


def latest_generation(folder: Folder, name: str) -> int:
    """Return how often a file was superseded."""
    number = 0
    while folder.exists(generation_name(name, number + 1)):
        number += 1
    return number


def _plan_name(shard: int, generation: int = 0) -> str:
    return generation_name(f"{PLANS}/shard-{shard:05d}.parquet", generation)


def _part_name(shard: int) -> str:
    """What comes before the mark of the writer."""
    return f"part-{shard:05d}"


def _commit_name(shard: int, generation: int = 0) -> str:
    return generation_name(f"{COMMITS}/shard-{shard:05d}.json", generation)


def _numbers(name: str) -> tuple[int, int]:
    """Shard and generation from a file's name."""
    shard, *generation = name.split("-")[1].split(".")[:-1]
    return int(shard), int(generation[0]) if generation else 0
