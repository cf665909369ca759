"""Frozen manifests: the same rows continue, others are refused by name or taken over on request."""

from contextlib import nullcontext
from itertools import chain

import numpy as np
import pyarrow as pa
import pytest

from manifests.edits import Edit, edits_batch
from manifests.instructions import Instruction
from manifests.schemas import RESULTS
from tasks.frozen import are_among, freeze_manifest, sort_hashes
from tasks.runs import RunError, run_ledger
from tasks.store.folders import Folder
from tasks.store.ledger import Ledger


def manifest(*edits: tuple[str, str, float]) -> list[pa.RecordBatch]:
    """Rows that are named as given: name, image, strength."""
    asked = [(image, Instruction(target_prompt="sad", alpha=alpha)) for _, image, alpha in edits]
    return [edits_batch([Edit(*pair) for pair in asked], [name for name, _, _ in edits])]


BEGUN = manifest(("p0", "anna", 1), ("p1", "anna", 2), ("p2", "bert", 1), ("p3", "bert", 2))
OTHER = manifest(("p1", "anna", 2), ("p2", "bert", 3), ("p3", "bert", 2), ("p4", "carl", 1))

THIRD = manifest(("p0", "anna", 1), ("p1", "anna", 3), ("p4", "carl", 1), ("p5", "dora", 1))


def ids(ledger: Ledger) -> list[list[str]]:
    return [ledger.units(shard)["pair_id"].to_pylist() for shard in ledger.plans()]


def finish(ledger: Ledger) -> None:
    for shard in ledger.pending():
        unit_rows = ledger.units(shard).to_pylist()
        nothing = dict.fromkeys(RESULTS.names)
        made = {"status": "ok", "shard": shard, "code_version": "1", "generator_fingerprint": "g"}
        rows = [nothing | row | made for row in unit_rows]
        ledger.commit(shard, pa.Table.from_pylist(rows, RESULTS))


@pytest.fixture
def folder(root) -> Folder:
    return Folder(root)


def test_the_same_rows_continue_in_any_order_and_shard_size(folder):
    assert freeze_manifest(folder, BEGUN, 3) == 4
    (batch,) = BEGUN
    again = [batch.slice(2, 2), batch.slice(0, 2)]
    assert freeze_manifest(folder, again, 2) == 4
    assert ids(run_ledger(folder)) == [["p0", "p1", "p2"], ["p3"]]


def test_a_damaged_card_is_named_and_made_anew_once_it_is_gone(folder):
    assert freeze_manifest(folder, BEGUN, 3) == 4
    whole = folder.read("manifest.json")
    folder.write("manifest.json", whole[:10])
    with pytest.raises(
        RunError, match=r"/manifest\.json: got a damaged card, .*remove it, and the"
    ):
        freeze_manifest(folder, BEGUN, 3)
    folder.remove("manifest.json")
    assert freeze_manifest(folder, BEGUN, 3) == 4
    assert folder.read("manifest.json") == whole


def test_a_lost_plan_is_planned_again_once_the_card_is_gone(folder):
    assert freeze_manifest(folder, BEGUN, 3) == 4
    for name in ("_plans/shard-00001.parquet", "manifest.json"):
        folder.remove(name)
    assert freeze_manifest(folder, BEGUN, 5) == 4
    assert ids(run_ledger(folder)) == [["p0", "p1", "p2"], ["p3"]]


def test_a_freeze_whose_first_shard_lost_its_rows_ends(folder):
    ledger = run_ledger(folder)
    (batch,) = BEGUN
    ledger.plan_shard(0, pa.Table.from_batches([batch.slice(0, 2)]))
    ledger.replan_shard(0, ledger.units(0).slice(0, 0))
    with pytest.raises(RunError, match="give --update"):
        freeze_manifest(folder, BEGUN, 3)
    assert len(ledger.plans()) <= 2


def test_an_update_to_no_rows_is_refused_and_changes_nothing(folder):
    freeze_manifest(folder, BEGUN, 3)
    with pytest.raises(RunError, match="got no rows"):
        freeze_manifest(folder, [], 3, update=True)
    assert freeze_manifest(folder, BEGUN, 3) == 4


def test_a_freeze_that_was_stopped_continues_with_its_own_shard_size(folder):
    run_ledger(folder).plan_shard(0, pa.Table.from_batches(BEGUN).slice(0, 3).combine_chunks())
    with pytest.raises(RunError, match="another manifest than it was begun with"):
        freeze_manifest(folder, OTHER, 3)
    assert freeze_manifest(folder, BEGUN, 2) == 4
    assert ids(run_ledger(folder)) == [["p0", "p1", "p2"], ["p3"]]


def test_a_difference_is_named(tmp_path):
    folder = Folder(str(tmp_path))
    freeze_manifest(folder, BEGUN, 3)
    with pytest.raises(RunError) as caught:
        freeze_manifest(folder, OTHER, 3)
    assert (
        "1 row added (carl to 'sad' by global at alpha 1); "
        "1 row removed (anna to 'sad' by global at alpha 1); "
        "1 row changed in alpha (bert to 'sad' by global at alpha 1); give --update"
    ) in str(caught.value)


def test_an_update_plans_what_is_new_and_drops_what_is_gone(folder):
    freeze_manifest(folder, BEGUN, 3)
    ledger = run_ledger(folder)
    finish(ledger)
    assert freeze_manifest(folder, OTHER, 3, update=True) == 4
    assert ids(ledger) == [["p1"], ["p3"], ["p2", "p4"]]
    assert ledger.pending() == [2]
    finish(ledger)
    rows = [row for table in ledger.results() for row in table.to_pylist()]
    assert [(row["pair_id"], row["alpha"]) for row in rows] == [
        ("p1", 2),
        ("p3", 2),
        ("p2", 3),
        ("p4", 1),
    ]
    # From now on the new manifest continues, and the old one is another.
    assert freeze_manifest(folder, OTHER, 3) == 4
    with pytest.raises(RunError, match="give --update"):
        freeze_manifest(folder, BEGUN, 3)
    # Back again: what left comes back as new.
    assert freeze_manifest(folder, BEGUN, 3, update=True) == 4
    assert sorted(chain(*ids(ledger))) == ["p0", "p1", "p2", "p3"]


@pytest.mark.parametrize("stop", range(1, 5))
def test_an_update_that_was_stopped_is_continued(tmp_path, monkeypatch, stop):
    folder = Folder(str(tmp_path))
    freeze_manifest(folder, BEGUN, 3)
    count = 0

    def stopping(write):
        def write_or_stop(folder: Folder, name: str, content: bytes) -> None:
            nonlocal count
            count += 1
            if count == stop:
                raise KeyboardInterrupt
            write(folder, name, content)

        return write_or_stop

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "create", stopping(Folder.create))
        patch.setattr(Folder, "write", stopping(Folder.write))
        with pytest.raises(KeyboardInterrupt):
            freeze_manifest(folder, OTHER, 3, update=True)
    # The first file decides: before it nothing has changed, after it the new manifest continues.
    if stop == 1:
        assert freeze_manifest(folder, BEGUN, 3) == 4
        assert ids(run_ledger(folder)) == [["p0", "p1", "p2"], ["p3"]]
        return
    with pytest.raises(RunError, match="another manifest"):
        freeze_manifest(folder, BEGUN, 3)
    assert freeze_manifest(folder, OTHER, 3) == 4
    assert sorted(chain(*ids(run_ledger(folder)))) == ["p1", "p2", "p3", "p4"]
    assert freeze_manifest(folder, OTHER, 3) == 4


def test_two_processes_that_update_plan_every_row_once(folder, monkeypatch):
    freeze_manifest(folder, BEGUN, 3)
    plan_shard = Ledger.plan_shard

    def overtaken(ledger: Ledger, shard: int, units: pa.Table) -> None:
        monkeypatch.setattr(Ledger, "plan_shard", plan_shard)
        freeze_manifest(folder, OTHER, 1, update=True)
        ledger.plan_shard(shard, units)

    monkeypatch.setattr(Ledger, "plan_shard", overtaken)
    assert freeze_manifest(folder, OTHER, 3, update=True) == 4
    assert ids(run_ledger(folder)) == [["p1"], ["p3"], ["p2"], ["p4"]]


@pytest.mark.parametrize("moment", range(7))
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("by", [OTHER, THIRD], ids=["the same", "another"])
def test_an_update_that_is_overtaken_at_any_moment_leaves_every_row_planned_once(
    tmp_path, monkeypatch, moment, size, by
):
    folder, units, reads = Folder(str(tmp_path)), Ledger.units, []
    freeze_manifest(folder, BEGUN, 3)

    def overtaken(ledger: Ledger, shard: int) -> pa.Table:
        found = units(ledger, shard)
        reads.append(shard)
        if len(reads) > moment:
            monkeypatch.setattr(Ledger, "units", units)
            freeze_manifest(folder, by, size, update=True)
        return found

    monkeypatch.setattr(Ledger, "units", overtaken)
    # After its last look at the plans it is not overtaken, but followed.
    told = pytest.raises(RunError, match="another process updated it with another manifest")
    with nullcontext() if by is OTHER or moment == 6 else told:
        freeze_manifest(folder, OTHER, 3, update=True)
    assert len(reads) == moment + 1
    freeze_manifest(folder, by, 3)
    (batch,) = by
    assert sorted(chain(*ids(run_ledger(folder)))) == batch["pair_id"].to_pylist()


def test_rows_that_were_planned_twice_are_planned_once_by_an_update(folder):
    freeze_manifest(folder, BEGUN, 3)
    ledger = run_ledger(folder)
    ledger.plan_shard(2, ledger.units(0))
    freeze_manifest(folder, OTHER, 3, update=True)
    assert ids(ledger) == [["p1"], ["p3"], [], ["p2", "p4"]]


def test_processes_that_begin_with_shards_of_other_sizes_agree(folder, monkeypatch):
    create, ledger = Folder.create, run_ledger(folder)
    (batch,) = BEGUN

    def overtaken(self: Folder, name: str, content: bytes) -> None:
        monkeypatch.setattr(Folder, "create", create)
        ledger.plan_shard(0, pa.Table.from_batches([batch]).slice(0, 3).combine_chunks())
        create(self, name, content)

    monkeypatch.setattr(Folder, "create", overtaken)
    assert freeze_manifest(folder, BEGUN, 2) == 4
    assert ids(ledger) == [["p0", "p1", "p2"], ["p3"]]


def test_hashes_are_found_among_sorted_ones():
    known = sort_hashes([np.array([7, 3], np.uint64), np.array([2**64 - 1], np.uint64)])
    asked = np.array([3, 4, 2**64 - 1, 0, 7], np.uint64)
    assert are_among(asked, known).tolist() == [True, False, True, False, True]
    assert not are_among(asked, sort_hashes([])).any()
