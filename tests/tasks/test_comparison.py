"""Two runs side by side: differences against a plain recomputation, drift, and what has no pair."""

import numpy as np
import pyarrow as pa
import pytest

from manifests.schemas import METRICS, RESULTS
from tasks.report.comparison import (
    Comparison,
    compare_runs,
    difference_of_means,
    drift_sentences,
    pair_rows,
    telling_pairs,
)
from tasks.report.evaluation import Estimate, evaluate_rows
from tasks.report.rows import Rows, collect_rows
from tasks.report.scoring import Criteria

CRITERIA = Criteria(resamples=100)


def rows_of(faces: range, shift: float = 0.0, **fixed) -> list[dict]:
    made = []
    for face in faces:
        # The noise of a shifted run is its own.
        random, noise = np.random.default_rng(face), np.random.default_rng([face, shift != 0])
        for alpha in (2.0, 4.0):
            row = dict.fromkeys(RESULTS.names) | {
                "pair_id": f"{face}-{alpha}",
                "image_id": f"face-{face}",
                "neutral_prompt": "a face",
                "target_prompt": "a smiling face",
                "method": "global",
                "alpha": alpha,
                "status": "ok",
                "generator_fingerprint": "g",
                "code_version": "0",
                "shard": 0,
            }
            row |= {name: float(random.uniform(0.2, 0.8)) for name in METRICS}
            row |= {"clip_cosine_inversion": 0.1}
            row["directional_edit"] += shift + noise.normal() * 0.001
            made.append(row | fixed)
    return made


@pytest.fixture
def collect(tmp_path):
    def collected(rows: list[dict]) -> Rows:
        name = f"{len([*tmp_path.iterdir()])}.parquet"
        return collect_rows([pa.Table.from_pylist(rows, RESULTS)], CRITERIA, tmp_path / name)

    return collected


def compared(mine: Rows, theirs: Rows) -> Comparison:
    both = ((rows, evaluate_rows(rows, {}, CRITERIA)) for rows in (mine, theirs))
    return compare_runs(*both, pair_rows(mine, theirs), "before", "/ws/runs/before")


def test_differences_are_those_of_the_pairs(collect):
    mine = rows_of(range(12), 0.05)
    theirs = rows_of(range(20))[::-1]
    theirs[-1] |= {"status": "failed"}
    found = compared(collect(mine), collect(theirs))
    (difference,) = found.differences
    assert (found.pairs, difference.pairs, difference.paired) == (24, 24, True)
    others = {row["pair_id"]: row for row in theirs if row["status"] == "ok"}
    plain = [
        row["directional_edit"] - others[row["pair_id"]]["directional_edit"]
        for row in mine
        if row["pair_id"] in others
    ]
    score = difference.scores["directional_edit"]
    assert (score.count, score.faces) == (23, 12)
    assert score.mean == pytest.approx(np.mean(plain))
    assert 0.049 < score.low < 0.05 < score.high < 0.051
    assert difference.scores["failed"].mean == pytest.approx(-1 / 24)
    assert difference.scores["identity_edit"].mean == pytest.approx(0, abs=1e-12)
    assert difference.change("directional_edit") == "better"
    assert difference.change("identity_edit") == "same"


def test_drift_needs_an_interval_beside_zero_and_a_large_difference(collect):
    before = collect(rows_of(range(12)))
    assert compared(collect(rows_of(range(12))), before).drifted == []
    small = compared(collect(rows_of(range(12), -0.01)), before)
    assert small.differences[0].change("directional_edit") == "worse"
    assert small.differences[0].drift == ()
    (large,) = compared(collect(rows_of(range(12), -0.1)), before).drifted
    assert "directional_edit" in large.drift
    told = drift_sentences(compared(collect(rows_of(range(12), -0.1)), before))
    assert told[0].startswith("global, 'a smiling face': directional edit worse by 0.100 (-0.1")
    # One face has no interval, so nobody can tell.
    assert compared(collect(rows_of(range(1), -0.1)), before).drifted == []


def test_pairs_that_are_not_edited_differ_in_nothing_and_below_zero_better_is_the_other_way(
    collect,
):
    mine, theirs = rows_of(range(12)), rows_of(range(12))
    for row, other in zip(mine, theirs, strict=True):
        # Of two strengths the lower one is none here, and the higher one goes down.
        alpha = 0.0 if row["alpha"] == 2 else -4.0
        row |= {"alpha": alpha}
        other |= {"alpha": alpha, "directional_edit": row["directional_edit"] + 0.1}
        other["identity_edit"] -= 0.1
    found = compared(collect(mine), collect(theirs))
    (difference,) = found.differences
    assert (found.pairs, difference.pairs, difference.paired) == (24, 24, True)
    for name in ("directional_edit", "identity_edit"):
        score = difference.scores[name]
        assert (score.count, score.mean) == (12, pytest.approx(0.1))
    assert difference.scores["failed"].count == 24
    # Where nothing was edited, nothing is told to differ either.
    rows = [row for row in mine if row["alpha"] == 0]
    found = compared(collect(rows), collect(rows))
    assert (found.pairs, found.apart) == (12, [])
    assert found.differences[0].change("identity_edit") == "unknown"


def test_other_settings_are_no_pairs_and_other_mappers_are(collect):
    mine = collect(rows_of(range(3)))
    assert compared(mine, collect(rows_of(range(3), num_channels=7))).pairs == 0
    other = rows_of(range(3), mapper_uri="/ws/mappers/x", generator_fingerprint="h")
    found = compared(mine, collect(other))
    assert (found.pairs, found.others) == (6, ["generator"])


def test_runs_without_a_common_pair_say_in_what_they_differ(collect):
    def apart(*rows: dict) -> list[str]:
        return compared(mine, collect([*rows])).apart

    mapped = {"method": "mapper", "options": "{}"}
    mine = collect(rows_of(range(3), num_channels=64) + rows_of(range(3), **mapped))
    assert apart(*rows_of(range(3), num_channels=64)) == []
    assert apart(*rows_of(range(3), num_channels=2)) == ["num_channels"]
    assert apart(*rows_of(range(3), beta=0.1)) == ["beta", "num_channels"]
    assert apart(*rows_of(range(3, 5), num_channels=64)) == ["image_id"]
    assert apart(*rows_of(range(3), method="optimize")) == ["method"]
    # Of every column something is in both.
    crossed = rows_of(range(1), num_channels=2) + rows_of(range(3, 5), num_channels=64)
    assert {"image_id", "num_channels"} < {*apart(*crossed)}


def test_pairs_that_only_their_mappers_tell_apart_are_not_mixed_up(collect):
    def mapped(size: str, shift: float) -> list[dict]:
        return rows_of(range(6), shift, method="mapper", mapper_uri=f"s3://m/{size}")

    # Of each face first the edits by the small mapper, then those by the large one.
    both = zip(mapped("small", -0.4), mapped("large", 0), strict=True)
    mine = collect([row for pair in both for row in pair])
    theirs = collect(mapped("large", 0))
    pairing = pair_rows(mine, theirs)
    uris = mine.settings["mapper_uri"][mine.setting[pairing.mine]]
    assert (len(pairing.mine), {*uris}) == (12, {"s3://m/large"})
    assert compared(mine, theirs).drifted == []
    assert len(pair_rows(mine, mine).mine) == len(mine) == 24
    # Rows that are equal in all are told apart by their order.
    twice = collect([row for row in mapped("large", 0) for _ in range(2)])
    pairing = pair_rows(twice, twice)
    assert np.array_equal(pairing.mine, pairing.theirs)
    assert len(pairing.mine) == 24


def test_runs_of_other_faces_are_compared_by_their_means(collect):
    mine, theirs = collect(rows_of(range(12), 0.3)), collect(rows_of(range(20, 40)))
    (difference,) = compared(mine, theirs).differences
    assert not difference.paired
    means = [np.nanmean(rows.column("directional_edit")) for rows in (mine, theirs)]
    score = difference.scores["directional_edit"]
    assert score.mean == pytest.approx(means[0] - means[1])
    assert score.low < score.mean < score.high
    assert difference.change("directional_edit") == "better"
    # Other pairs may differ for many reasons.
    assert difference.drift == ()
    assert compared(mine, collect(rows_of(range(3), target_prompt="a hat"))).differences == []


def test_a_difference_of_means_has_the_interval_of_both():
    found = difference_of_means(Estimate(9, 9, 0.5, 0.2, 0.9), Estimate(8, 8, 0.1, 0.0, 0.4))
    assert (found.mean, found.low, found.high) == pytest.approx(
        (0.4, 0.4 - np.hypot(0.3, 0.3), 0.4 + np.hypot(0.4, 0.1))
    )
    assert difference_of_means(Estimate(), Estimate(1, 1, 0.5)) == Estimate()
    assert difference_of_means(Estimate(1, 1, 0.5), Estimate(1, 1, 0.2)).low is None


def test_telling_pairs_are_the_ends_and_the_median(collect):
    mine, theirs = rows_of(range(5)), rows_of(range(5))
    for row, change in zip(mine, (0.0, 0.1, -0.3, 0.5, 0.01, 0, 0, 0, 0, 0.02), strict=True):
        row |= {"identity_edit": 1.0, "clip_cosine_inversion": 0.2, "clip_cosine": 0.2 + change}
    for row in theirs:
        row |= {"identity_edit": 1.0, "clip_cosine_inversion": 0.2, "clip_cosine": 0.2}
    ours, others = collect(mine), collect(theirs)
    pairing = pair_rows(ours, others)
    found = {why: int(pairing.mine[n]) for why, n in telling_pairs(ours, others, pairing).items()}
    assert (found["rose most"], found["fell most"]) == (3, 2)
    assert telling_pairs(ours, others, pair_rows(ours, collect(rows_of(range(9, 10))))) == {}
