"""The program that measures memory: every stage has as many rows as it should, growth fails."""

import pytest

from benchmarks.endurance import volume
from tasks.edits import Editor
from tasks.runs import run_ledger

ROWS = 300


def test_every_stage_keeps_every_row(tmp_path, monkeypatch):
    monkeypatch.setattr(Editor, "edit", Editor.edit)
    volume._prepare(tmp_path, ROWS)
    for stage in volume._STAGES.values():
        stage(tmp_path, ROWS, False)
    ids = [
        name
        for table in run_ledger(volume._run(tmp_path)).results()
        for name in table["pair_id"].to_pylist()
    ]
    assert len(ids) == len({*ids}) == ROWS


@pytest.mark.parametrize(
    ("peaks", "seconds", "failed"),
    [
        ((400.0, 450.0, 500.0), (1.0, 1.2, 12.0), 0),
        ((400.0, 450.0, 600.0), (1.0, 1.2, 12.0), 1),
        ((400.0, 450.0, 500.0), (1.0, 1.2, 17.0), 1),
    ],
)
def test_a_stage_that_grows_fails(capsys, peaks, seconds, failed):
    each = zip(peaks, seconds, strict=True)
    told = {"edit": [{"peak": peak, "seconds": taken} for peak, taken in each]}
    assert volume._verdict([10, 100, 1000], told) == failed
    assert ("GROWS" in capsys.readouterr().out) == bool(failed)
