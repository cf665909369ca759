"""The ledger of a stage: which shards of work are planned, which are committed, and their results.

A plan is a create-only table of units of work. A commit is a create-only record that names the
parts of the results with their sizes and digests. Parts without a commit do not count. So a stage
that is stopped anywhere continues with its pending shards, and of several writers of one shard
exactly one is believed.
"""

import io
import json
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.redaction import redact_table
from tasks.storage import Folder, sha256

PLANS, RESULTS, COMMITS = "_plans", "results", "_commits"


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
    """

    shard: int
    parts: tuple[Part, ...]
    facts: Mapping[str, object]


class Ledger:
    """Keep the shards of a stage.

    Args:
        folder: Of the stage.
        results: Schema of the result rows.
    """

    def __init__(self, folder: Folder, results: pa.Schema) -> None:
        self.folder, self._schema = folder, results

    def plans(self) -> list[int]:
        """Return the numbers of all planned shards, ascending."""
        return sorted(map(_number, (self.folder / PLANS).names(".parquet")))

    def committed(self) -> list[int]:
        """Return the numbers of all committed shards, ascending."""
        return sorted(map(_number, (self.folder / COMMITS).names(".json")))

    def pending(self) -> list[int]:
        """Return the numbers of all shards that are planned and not committed, ascending."""
        done = set(self.committed())
        return [shard for shard in self.plans() if shard not in done]

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

    def extend(self, units: pa.Table, key: str, shard_size: int) -> list[int]:
        """Plan the units whose key is in no plan yet, in new shards.

        Args:
            units: Rows that may be planned already.
            key: Column that tells units apart.
            shard_size: Most units in a shard.

        Returns:
            The numbers of the new shards. Units that another writer planned meanwhile are not
            planned twice.
        """
        new, known, read = list[int](), set[str](), -1
        while True:
            plans = self.plans()
            known.update(*(self.units(s)[key].to_pylist() for s in plans if s > read))
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
        return read_table(self.folder.read(_plan_name(shard)))

    def commit(
        self, shard: int, rows: pa.Table, facts: Mapping[str, object] | None = None
    ) -> Commit:
        """Write the results of a shard and commit them.

        Args:
            shard: Its number.
            rows: Its results; the columns must be those of the ledger's schema.
            facts: Plain values to keep in the record.

        Returns:
            The commit that counts: another writer's, if it came first.
        """
        content = table_bytes(redact_table(rows.select(self._schema.names).cast(self._schema)))
        name = f"part-{shard:05d}-{uuid.uuid4().hex[:8]}.parquet"
        part = Part(name, sha256(content), len(content), len(rows))
        (self.folder / RESULTS).create(name, content)
        mine = Commit(shard, (part,), dict(facts or {}))
        record = json.dumps(asdict(mine), indent=1, sort_keys=True).encode()
        try:
            self.folder.create(_commit_name(shard), record)
        except FileExistsError:
            (self.folder / RESULTS).remove(name)
            return self.read_commit(shard)
        return mine

    def read_commit(self, shard: int) -> Commit:
        """Return the record of a committed shard."""
        values = json.loads(self.folder.read(_commit_name(shard)))
        parts = tuple(Part(**part) for part in values["parts"])
        return Commit(values["shard"], parts, values["facts"])

    def results(self, shards: Collection[int] | None = None) -> Iterator[pa.Table]:
        """Yield the result rows of the committed shards, one table a shard, ascending.

        Args:
            shards: Only these; all where None.

        Raises:
            LedgerError: A part is not what was committed.
        """
        for shard in self.committed():
            if shards is not None and shard not in shards:
                continue
            tables = [self._read_part(part) for part in self.read_commit(shard).parts]
            yield pa.concat_tables(tables)

    def _read_part(self, part: Part) -> pa.Table:
        try:
            content = (self.folder / RESULTS).read(part.name)
        except FileNotFoundError:
            content = b""
        if sha256(content) != part.sha256:
            raise LedgerError(
                f"{self.folder.url}/{RESULTS}/{part.name}: got {len(content)} bytes with "
                f"another digest, expected the {part.size} that were committed; restore the file, "
                "or remove the shard's commit to compute it again"
            )
        return read_table(content).cast(self._schema)


def table_bytes(table: pa.Table) -> bytes:
    """Write a table as Parquet; equal tables give equal bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_table(content: bytes) -> pa.Table:
    """Read a table from the bytes of a Parquet file."""
    return pq.read_table(pa.BufferReader(content))


def _without(units: pa.Table, key: str, known: Collection[str]) -> pa.Table:
    return units.filter(
        pa.array([value not in known for value in units[key].to_pylist()], pa.bool_())
    )


def _plan_name(shard: int) -> str:
    return f"{PLANS}/shard-{shard:05d}.parquet"


def _commit_name(shard: int) -> str:
    return f"{COMMITS}/shard-{shard:05d}.json"


def _number(name: str) -> int:
    return int(name.split("-")[1].split(".")[0])
