"""Hostile input is accepted, gets a status, or is refused by an error of ours; see the program."""

import pytest

from benchmarks.endurance import fuzz
from benchmarks.endurance.hostile.checkpoints import Checkpoints
from benchmarks.endurance.hostile.images import Images
from benchmarks.endurance.hostile.manifests import Manifests
from benchmarks.endurance.hostile.stores import Stores

# Those that take no gigabytes or seconds to make or to refuse.
QUICK = {
    Images: [*range(25), *range(28, 30), *range(100, 120)],
    Manifests: [*range(0, 200, 3), *range(300, 320)],
    Checkpoints: [*range(0, 15, 2), *range(44, 62, 3), 81, 82, 86, 87, 200, 203],
    Stores: [*range(22), 30, 31, 32],
}


@pytest.mark.parametrize("family", QUICK, ids=lambda family: family.__name__)
@pytest.mark.filterwarnings("ignore")
def test_what_is_hostile_is_accepted_or_refused(family, tmp_path):
    canary = tmp_path / "canary"
    canary.mkdir()
    reader, outcomes = family(tmp_path, 1, canary), set()
    assert reader.judge(reader.good()) in {"accepted", "ok"}
    for index in QUICK[family]:
        item = reader.item(index)
        try:
            outcomes.add(reader.judge(item))
        except reader.refusals as error:
            outcomes.add(type(error).__name__)
    assert len(outcomes) > 1
    assert not [*canary.iterdir()]


def test_the_program_counts_and_fails(capsys):
    assert fuzz.fuzz({"manifests": 6}, seed=1, first=8) == (6, 0)
    shown = capsys.readouterr().out
    assert "canary: a payload that is run leaves its file" in shown
    assert "manifests: " in shown


def test_an_error_that_is_not_ours_and_a_gigabyte_are_failures():
    tally = fuzz.Tally()
    told = {"outcome": "accepted", "seconds": 1, "growth": 9999, "peak": 1, "failure": ""}
    fuzz._note(tally, told, "a")
    fuzz._note(tally, told | {"growth": 1, "failure": "KeyError: x"}, "b")
    fuzz._note(tally, told | {"growth": 1}, "c")
    assert tally.failures == ["a: took 9999 MB", "b: KeyError: x"]
