"""The commit protocol: committed work counts once, everything else not at all."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tasks.store.folders import Folder
from tasks.store.ledger import Ledger, LedgerError

SCHEMA = pa.schema([("key", pa.string()), ("value", pa.int64())])


def units(*keys: str) -> pa.Table:
    return pa.table({"key": pa.array(keys, pa.string())})


def rows(**values: int) -> pa.Table:
    return pa.table({"key": [*values], "value": [*values.values()]}, SCHEMA)


@pytest.fixture
def ledger(root) -> Ledger:
    return Ledger(Folder(root), SCHEMA)


def test_units_are_planned_once_and_new_ones_later(ledger):
    assert ledger.extend(units("a", "b", "c"), "key", 2) == [0, 1]
    assert ledger.extend(units("a", "b", "c"), "key", 2) == []
    assert ledger.extend(units("c", "d"), "key", 2) == [2]
    planned = [ledger.units(shard)["key"].to_pylist() for shard in ledger.plans()]
    assert planned == [["a", "b"], ["c"], ["d"]]


def test_only_commits_count(ledger):
    ledger.extend(units("a", "b"), "key", 1)
    # What a killed writer leaves: a part, and no commit.
    (ledger.folder / "results").write("part-00000-dead.parquet", b"half")
    assert ledger.pending() == [0, 1]
    ledger.commit(1, rows(b=2))
    assert ledger.pending() == [0]
    assert [table.to_pylist() for table in ledger.results()] == [[{"key": "b", "value": 2}]]


@pytest.mark.parametrize(
    ("name", "told"),
    [("_commits/shard-00000.json", "commit"), ("_plans/shard-00000.parquet", "plan")],
)
def test_damaged_records_are_named(tmp_path, name, told):
    ledger = Ledger(Folder(str(tmp_path)), SCHEMA)
    ledger.extend(units("a"), "key", 1)
    ledger.commit(0, rows(a=1))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(LedgerError, match=f"{name}: got a damaged {told}, expected"):
        [ledger.read_commit(0), ledger.units(0)]


def test_the_first_of_two_commits_wins_and_leaves_no_rest(ledger):
    ledger.plan_shard(0, units("a"))
    first = ledger.commit(0, rows(a=1), {"note": "first"})
    late = Ledger(ledger.folder, SCHEMA)
    second = late.commit(0, rows(a=9))
    assert second == first
    assert (ledger.wrote(first), late.wrote(second)) == (True, False)
    assert [table["value"].to_pylist() for table in ledger.results()] == [[1]]
    assert (ledger.folder / "results").names() == [part.name for part in first.parts]


def test_a_plan_cannot_be_changed(ledger):
    ledger.plan_shard(0, units("a"))
    ledger.plan_shard(0, units("a"))
    with pytest.raises(LedgerError, match="got other rows than those planned before"):
        ledger.plan_shard(0, units("b"))


def test_a_damaged_part_is_named(ledger):
    ledger.plan_shard(0, units("a"))
    name = ledger.commit(0, rows(a=1)).parts[0].name
    (ledger.folder / "results").write(name, b"other")
    with pytest.raises(LedgerError, match=f"{name}: got 5 bytes with another digest"):
        [*ledger.results()]
    (ledger.folder / "results").remove(name)
    with pytest.raises(LedgerError, match=r"got no such file, .*remove .*/shard-00000\*\.json"):
        [*ledger.results()]


def test_a_plan_with_a_flipped_bit_is_not_carried_out(ledger):
    keys = [f"key-{n}" for n in range(40)]
    ledger.plan_shard(0, units(*keys))
    (name,) = (ledger.folder / "_plans").names(".parquet")
    whole = (ledger.folder / "_plans").read(name)
    # The last eight bytes say how long the footer is, for which Parquet has no checksum.
    pages = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for place in range(pages):
        flipped = whole[:place] + bytes([whole[place] ^ 2]) + whole[place + 1 :]
        (ledger.folder / "_plans").write(name, flipped)
        try:
            read = ledger.units(0)
        except LedgerError:
            continue
        assert read.column(0).to_pylist() == keys


def test_several_planners_plan_every_unit_once(tmp_path):
    def plan(index: int) -> None:
        keys = [f"k{i}" for i in range(index, index + 12)]
        Ledger(Folder(str(tmp_path)), SCHEMA).extend(units(*keys), "key", 3)

    with ThreadPoolExecutor(4) as pool:
        [*pool.map(plan, [0, 4, 8, 2])]
    ledger = Ledger(Folder(str(tmp_path)), SCHEMA)
    planned = [key for shard in ledger.plans() for key in ledger.units(shard)["key"].to_pylist()]
    assert sorted(planned) == sorted({f"k{i}" for i in range(20)})


def test_a_later_commit_supersedes_and_again_the_first_wins(ledger):
    ledger.plan_shard(0, units("a", "b"))
    first = ledger.commit(0, rows(a=1, b=2))
    second = ledger.commit(0, rows(a=1, b=3), after=first)
    late = ledger.commit(0, rows(a=1, b=9), after=first)
    assert second.generation == 1
    assert late == second == ledger.read_commit(0)
    assert ledger.committed() == [0]
    assert [table["value"].to_pylist() for table in ledger.results()] == [[1, 3]]


def test_time_is_that_of_all_commits_and_rows_are_those_that_count(ledger):
    ledger.plan_shard(0, units("a", "b"))
    first = ledger.commit(0, rows(a=1, b=2), {"seconds": 42.0})
    ledger.commit(0, rows(a=1, b=3), {"seconds": 1.0}, first)
    assert ledger.work() == (2, 43.0)


def test_a_smaller_plan_takes_rows_out_of_the_results(root):
    ledger = Ledger(Folder(root), SCHEMA, key="key")
    ledger.extend(units("a", "b", "c"), "key", 2)
    ledger.commit(0, rows(a=1, b=2))
    ledger.replan_shard(0, units("b"))
    ledger.replan_shard(0, units("b"))
    assert ledger.units(0)["key"].to_pylist() == ["b"]
    assert ledger.rows(0).to_pylist() == [{"key": "b", "value": 2}]
    assert [table.to_pylist() for table in ledger.results()] == [[{"key": "b", "value": 2}]]
    # What left may come back, in another shard.
    assert ledger.extend(units("a", "b", "c"), "key", 2) == [2]
    assert ledger.plans() == [0, 1, 2]
    assert ledger.pending() == [1, 2]


def test_data_and_rows_are_of_one_writer_in_the_end(tmp_path):
    ledger = Ledger(Folder(str(tmp_path)), SCHEMA)
    ledger.plan_shard(0, units("a"))
    data = []

    def write(value: int):
        def store() -> None:
            data[:] = [value]

        return store

    def stored() -> str:
        return str(data[0])

    def commit(value: int) -> None:
        ledger.commit_stored(0, rows(a=value), str(value), stored, write(value))

    # Two write; the first commits, but the data of the second lie there.
    write(1)()
    write(2)()
    commit(1)
    commit(2)
    assert data == [row["value"] for table in ledger.results() for row in table.to_pylist()] == [2]
    # A third whose data are overwritten by the second's does nothing.
    write(3)()
    write(2)()
    commit(3)
    assert data == [2]
    assert ledger.read_commit(0).generation == 1


def test_a_commit_whose_answer_was_lost_is_mine(tmp_path, monkeypatch):
    ledger = Ledger(Folder(str(tmp_path)), SCHEMA)
    ledger.plan_shard(0, units("a"))
    create = Folder.create

    def create_twice(folder: Folder, name: str, content: bytes) -> None:
        create(folder, name, content)
        if name.startswith("_commits"):
            # The client asks again, since it got no answer.
            create(folder, name, content)

    monkeypatch.setattr(Folder, "create", create_twice)
    ledger.commit(0, rows(a=1))
    assert [table["value"].to_pylist() for table in ledger.results()] == [[1]]


def test_forgotten_rows_are_in_no_file(ledger):
    ledger.extend(units("a", "b", "c"), "key", 2)
    ledger.commit(0, rows(a=1, b=2), {"rows": 2})
    ledger.commit(1, rows(c=3))
    (ledger.folder / "results").write("part-00001-dead.parquet", b"of a killed writer")
    untouched = ledger.read_commit(1)

    def keep(table: pa.Table) -> pa.Table:
        return table.filter(pc.not_equal(table["key"], "a"))

    def recount(_shard: int, facts: object, kept: pa.Table) -> dict[str, object]:
        return {"rows": len(kept)}

    assert ledger.forget(keep, keep, recount) == 1
    assert ledger.forget(keep, keep, recount) == 0
    assert [table["key"].to_pylist() for table in ledger.results()] == [["b"], ["c"]]
    assert [table["key"].to_pylist() for table in ledger.tables()] == [["b"], ["c"], ["b"], ["c"]]
    assert ledger.read_commit(0).facts == {"rows": 1}
    assert ledger.read_commit(1) == untouched
    parts = sorted(ledger.read_commit(shard).parts[0].name for shard in (0, 1))
    assert (ledger.folder / "results").names() == parts
    assert ledger.extend(units("b", "c"), "key", 2) == []


def test_tables_are_read_by_no_thread_that_outlives_the_reading():
    # Arrow's threads would let go of Python's bytes when they please: while the process ends, too.
    code = """
import os
import pyarrow as pa
from tasks.store.ledger import read_table, table_bytes

table = pa.table({"key": [str(number) for number in range(100)], "value": list(range(100))})
content = table_bytes(table)
before = len(os.listdir("/proc/self/task"))
assert read_table(content).equals(table)
print(len(os.listdir("/proc/self/task")) - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "0"


def test_a_damaged_plan_and_commit_are_named_with_what_computes_them_again(ledger):
    ledger.plan_shard(0, units("a"))
    ledger.commit(0, rows(a=1))
    for kind, remedy in (("_commits", "remove .*"), ("_plans", "remove it and .*")):
        (name,) = (ledger.folder / kind).names()
        (ledger.folder / kind).write(name, b"")
        with pytest.raises(LedgerError, match=rf"{name}: got .*{remedy}/shard-00000\*\.json, and"):
            (ledger.read_commit if kind == "_commits" else ledger.units)(0)
