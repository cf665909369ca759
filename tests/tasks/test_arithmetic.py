import io
import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from flows.cli import app
from styleclip_ops.arithmetic import PLAIN, Arithmetic
from tasks import arithmetic as choosing
from tasks.arithmetic import (
    CALIBRATIONS,
    ArithmeticTrial,
    choose_arithmetic,
    fastest,
    try_arithmetics,
)
from tasks.checks.verification import Verification
from tasks.models import open_models
from tasks.outputs import read_image
from tasks.runs import run_ledger
from tasks.store.folders import Folder

MANY = partial(int, 1e6)
TRIALS = [ArithmeticTrial("float32", 1.0, 0.0), ArithmeticTrial("bfloat16", 0.5, 0.1, 2.0)]


@pytest.fixture
def units(monkeypatch):
    """A device that is quick in bfloat16."""
    monkeypatch.setattr(choosing, "has_bfloat16_units", lambda _: True)
    choosing._calibrated.cache_clear()


def calibrations(root: str) -> list[dict]:
    folder = Folder(root) / CALIBRATIONS
    return [json.loads(folder.read(name)) for name in folder.names()]


def test_without_units_for_it_nothing_is_measured(root, models):
    assert choose_arithmetic("auto", root, open_models(models, "cpu"), MANY) == PLAIN
    assert calibrations(root) == []


def test_what_was_measured_is_kept_and_taken_by_others(root, models, units, monkeypatch):
    monkeypatch.setattr(choosing, "try_arithmetics", lambda *_: TRIALS)
    networks = open_models(models, "cpu")
    assert choose_arithmetic("auto", root, networks, MANY) == Arithmetic("bfloat16")
    (kept,) = calibrations(root)
    assert kept["chosen"] == "bfloat16"
    assert [trial["seconds"] for trial in kept["trials"]] == [1.0, 0.5]
    choosing._calibrated.cache_clear()
    monkeypatch.setattr(choosing, "try_arithmetics", lambda *_: TRIALS[:1])
    assert choose_arithmetic("auto", root, networks, MANY) == Arithmetic("bfloat16")
    # What is damaged is measured anew.
    folder = Folder(root) / CALIBRATIONS
    (name,) = folder.names()
    folder.write(name, b'{"chosen": "bf')
    choosing._calibrated.cache_clear()
    assert choose_arithmetic("auto", root, networks, MANY) == PLAIN
    assert calibrations(root)[0]["chosen"] == "float32"


def test_where_there_is_little_to_render_little_or_nothing_is_tried(models, units, monkeypatch):
    tried = []
    monkeypatch.setattr(choosing, "try_arithmetics", lambda *given: tried.append(given) or TRIALS)
    networks, chosen = open_models(models, "cpu"), list[str]()
    side = networks.generator.resolution
    for pixels in (2**25 - side**2, 2**25, 2**27 - side**2, 2**27):
        rows = partial(int, pixels / side**2)
        chosen.append(str(choose_arithmetic("auto", "memory://little", networks, rows)))
    assert chosen == ["float32", *["bfloat16"] * 3]
    assert [compiles for _, _, compiles in tried] == [False, True]


def test_trials_build_on_what_helped(models, monkeypatch):
    monkeypatch.setattr(torch, "compile", None)
    networks = open_models(models, "cpu")
    trials = try_arithmetics(networks.generator, 2, compiles=True)
    assert [trial.arithmetic.split()[0] for trial in trials[:2]] == ["float32", "bfloat16"]
    assert trials[0].levels == 0
    assert 0 < trials[1].levels < 2
    assert "compiled" in trials[3].arithmetic
    assert trials[3].seconds is None
    assert "TypeError" in trials[3].error


def test_what_is_faster_by_chance_is_not_taken(models, monkeypatch):
    # Of nine pairs, three are disturbed; the others are equal, then twice as fast.
    for usual, wins in ((1.0, False), (0.5, True)):
        pairs = [(1.0, usual)] * 6 + [(1.0, 0.1), (0.3, usual), (1.0, 0.2)]
        monkeypatch.setattr(choosing, "_paired_seconds", lambda *_, pairs=pairs: pairs)
        monkeypatch.setattr(torch, "compile", lambda network: network)
        trials = try_arithmetics(open_models(models, "cpu").generator, 2, compiles=True)
        assert fastest(trials).compiled is wins


@pytest.mark.parametrize(
    ("trial", "wins"),
    {
        ArithmeticTrial("bfloat16", 0.8, 0.4, 1.2): True,
        ArithmeticTrial("bfloat16", 0.8, 0.4, 1.05): False,
        ArithmeticTrial("bfloat16", 0.1, 0.6, 10.0): False,
        ArithmeticTrial("bfloat16", error="out of memory"): False,
    }.items(),
)
def test_the_fastest_that_keeps_the_picture(trial, wins):
    assert (fastest([TRIALS[0], trial]) == Arithmetic("bfloat16")) is wins


def test_edits_are_rendered_in_it_and_verified_in_it(finished, units, monkeypatch):
    monkeypatch.setattr(choosing, "try_arithmetics", lambda *_: TRIALS)
    monkeypatch.setattr(choosing, "_PROCESSOR", (0, 0))
    finished.edit("low")
    commits = [*run_ledger(finished.run("low")).commits()]
    assert {commit.facts["arithmetic"] for commit in commits} == {"bfloat16"}
    check = Verification(finished.run("low").url, sample=6, device="cpu", models="", seed=0)
    assert [*check.check_results(lambda _: None), *check.check_edits(lambda _: None)] == []
    assert check.counts["rendered again"] >= 6
    plain, low = (pixels(finished.results(run)) for run in ("single", "low"))
    differences = np.abs(plain - low)
    assert 0 < differences.mean() < 3


def pixels(results) -> np.ndarray:
    rows = sorted(results.to_pylist(), key=lambda row: row["pair_id"])
    return np.stack([decoded(read_image(row["output_uri"])) for row in rows])


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content))).astype(int)


@pytest.mark.parametrize("words", [["edit", "ws", "none.csv"], ["run", "photos", "none.csv", "ws"]])
def test_a_wrong_text_is_refused_before_anything_is_read(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert app.meta(["--no-server", *words, "--arithmetic", "float16"]) == 2
    assert "arithmetic: got 'float16', expected one of" in " ".join(capsys.readouterr().err.split())
    assert [*tmp_path.iterdir()] == []
