"""Numbers of a run against plain recomputation, and what must not count."""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

import tasks.report.evaluation
from manifests.schemas import METRICS, RESULTS
from styleclip_ops.errors import ConfigError
from styleclip_ops.metrics import bootstrap_interval
from tasks.report.evaluation import Estimate, Evaluation, Group, estimate_mean, evaluate_rows
from tasks.report.examples import find_examples
from tasks.report.rows import Rows, collect_rows
from tasks.report.scoring import SCORES, Criteria, limits_of, score_rows

GOOD = {"clip_cosine_inversion": 0.2, "clip_cosine": 0.3, "directional_edit": 0.4}
GOOD |= {"identity_edit": 0.9}
CRITERIA = Criteria(directional=0.1, identity=0.5, resamples=200)


def row(image: str = "ann", method: str = "global", alpha: float = 4.0, **values) -> dict:
    given = {"image_id": image, "target_prompt": "a smiling face", "method": method, "status": "ok"}
    named = {"neutral_prompt": "a face", "alpha": alpha, "shard": 0, "code_version": "0"}
    rest = {"pair_id": f"{image}-{method}-{alpha}", "generator_fingerprint": ""}
    return dict.fromkeys(RESULTS.names) | given | named | rest | values


def table(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist([*rows], RESULTS)


@pytest.fixture
def collect(tmp_path):
    def collected(*rows: dict) -> Rows:
        return collect_rows([table(*rows)], CRITERIA, tmp_path / "rows.parquet")

    return collected


def evaluated(*rows: dict, faces: Mapping[str, int] = {}) -> Evaluation:
    with tempfile.TemporaryDirectory() as place:
        collected = collect_rows([table(*rows)], CRITERIA, Path(place, "rows.parquet"))
        return evaluate_rows(collected, faces, CRITERIA)


def only_group(*rows: dict) -> Group:
    (group,) = evaluated(*rows).by_prompt
    return group


def spread_rows(count: int, **fixed) -> list[dict]:
    random = np.random.default_rng(5)
    return [
        row(
            f"face-{n}",
            **{name: float(random.uniform(*limits_of(name))) for name in METRICS} | fixed,
        )
        for n in range(count)
    ]


def test_means_and_intervals_are_those_of_the_values():
    rows = spread_rows(9)
    group = only_group(*rows)
    for name in METRICS:
        values = torch.tensor([row[name] for row in rows], dtype=torch.float64)
        want = bootstrap_interval(values, num_resamples=200)
        got = group.scores[name]
        assert (got.count, got.faces) == (9, 9)
        assert (got.mean, got.low, got.high) == pytest.approx(tuple(want), abs=1e-12), name


def test_repeated_faces_do_not_narrow_the_interval():
    rows = spread_rows(8)
    again = [row | {"alpha": 5.0} for row in rows]
    once, twice = only_group(*rows), only_group(*rows, *again)
    for name in METRICS:
        single, double = once.scores[name], twice.scores[name]
        assert (double.count, double.faces) == (16, 8)
        assert (double.mean, double.low, double.high) == pytest.approx(
            (single.mean, single.low, single.high)
        )


def test_unequal_faces_keep_the_plain_mean_inside_the_interval():
    rows = [*spread_rows(6), row("face-0", alpha=6.0, identity_edit=-0.9)]
    values = [row["identity_edit"] for row in rows]
    score = only_group(*rows).scores["identity_edit"]
    assert score.mean == pytest.approx(np.mean(values))
    assert -1 <= score.low < score.mean < score.high <= 1


def test_faces_that_may_have_it_lie_more_than_half_of_the_way_before():
    cosines = {"ann": (0.1, 0.3), "bob": (0.12, 0.3), "cid": (0.25, 0.3), "dan": (0.1, None)}
    rows = [
        row(name, clip_cosine_inversion=before, clip_cosine=after)
        for name, (before, after) in cosines.items()
    ]
    assert only_group(*rows).already == 1
    # Edits that come no nearer tell nothing.
    assert only_group(*(one | {"clip_cosine": 0.1} for one in rows)).already == 0
    assert only_group(row(clip_cosine=None)).already == 0


def test_few_faces_seldom_tell_a_difference_that_is_none():
    random, tries = np.random.default_rng(1), 200
    for faces in (2, 3, 5, 12):
        found = [
            estimate_mean(random.normal(0, 0.05, faces), np.arange(faces), CRITERIA)
            for _ in range(tries)
        ]
        wrong = sum(not one.low <= 0 <= one.high for one in found)  # type: ignore[operator]
        assert 0 < wrong < 0.11 * tries, faces


def test_a_mean_lies_in_its_interval_whatever_the_unit_of_the_score():
    far = {"clip_score": 30.0, "image_edit": -0.9, "directional_edit": 0.1, "seconds": 7.0}
    rows = [
        row(f"face-{n}", **GOOD | {name: value * (1 + n / 90) for name, value in far.items()})
        for n in range(9)
    ]
    group = only_group(*rows)
    scores = {**group.scores, "seconds": group.seconds}
    assert scores["off_target"].mean > 1.8  # type: ignore[operator]
    for name in ("clip_score", "off_target", "directional_edit", "seconds"):
        found = scores[name]
        assert found.low < found.mean < found.high, name  # type: ignore[operator]
    # No interval leaves its scale.
    ends = row("ann", clip_score=100.0), row("bob", clip_score=97.0)
    assert only_group(*ends).scores["clip_score"].high == 100


def test_shares_that_all_faces_agree_on_have_the_interval_of_wilson():
    z = 1.959964
    margin = z**2 / (4 + z**2)
    for value, limits in ((1.0, (0, 1)), (0.0, (0, 1)), (0.0, (-1, 1)), (-1.0, (-1, 1))):
        got = estimate_mean(np.full(4, value), np.arange(4), CRITERIA, limits=limits, share=True)
        ends = max(value - margin, limits[0]), min(value + margin, limits[1])
        assert (got.mean, got.low, got.high) == pytest.approx((value, *ends))


@pytest.mark.parametrize("hole", [None, math.nan, math.inf, -math.inf])
def test_holes_do_not_count(hole):
    score = only_group(row("ann", directional_edit=0.2), row("bob", directional_edit=hole)).scores[
        "directional_edit"
    ]
    assert score == Estimate(1, 1, 0.2)


def test_one_face_has_no_interval():
    score = only_group(row(alpha=2.0, **GOOD), row(alpha=4.0, **GOOD)).scores["identity_edit"]
    assert score == Estimate(2, 1, 0.9)


def test_failed_rows_are_counted_and_not_scored():
    stray = row("bob", status="failed", error="?", seconds=100.0, **GOOD | {"identity_edit": -1.0})
    group = only_group(row(seconds=2.0, **GOOD), stray, row("cid", status="no_latent"))
    assert group.statuses == {"ok": 1, "failed": 1, "no_latent": 1}
    assert (group.pairs, group.faces, group.failed) == (3, 1, 2)
    assert group.scores["identity_edit"] == Estimate(1, 1, 0.9)
    assert group.seconds == Estimate(1, 1, 2.0)


@pytest.mark.parametrize(
    ("change", "success", "kept"),
    [
        ({}, 1.0, 1.0),
        ({"directional_edit": 0.1}, 1.0, 1.0),
        ({"directional_edit": 0.0999}, 0.0, 1.0),
        ({"clip_cosine": 0.2}, 0.0, 1.0),
        ({"clip_cosine": 0.19}, 0.0, 1.0),
        ({"identity_edit": 0.49}, 1.0, 0.0),
        ({"identity_edit": None}, 1.0, None),
        ({"directional_edit": math.nan}, None, 1.0),
        ({"clip_cosine_inversion": None}, None, 1.0),
        ({"alpha": -4.0, "directional_edit": -0.4}, None, 1.0),
        ({"alpha": 0.0}, None, 1.0),
        # Nothing changed: no direction, and no success.
        ({"clip_cosine": 0.2, "directional_edit": math.nan, "image_edit": 1.0}, 0.0, 1.0),
    ],
)
def test_success_is_what_its_definition_says(change, success, kept):
    scores = only_group(row(**GOOD | change)).scores
    assert scores["success"].mean == success
    assert scores["identity_kept"].mean == kept
    both = None if success is None or kept is None else success * kept
    assert scores["success_and_identity"].mean == both


def test_a_missing_column_has_no_values():
    results = table(row(**GOOD)).drop_columns(["clip_cosine_inversion", "image_edit", "seconds"])
    scored = score_rows(results, CRITERIA)
    assert scored[["success", "image_edit", "off_target", "seconds"]].isna().all(axis=None)
    assert scored["identity_kept"].tolist() == [1]


def test_strengths_apart_and_together():
    rows = [row("ann", alpha=alpha, **GOOD | {"identity_edit": 1 - alpha / 10}) for alpha in (6, 2)]
    evaluation = evaluated(*rows, row("ann", "mapper", 1.0, **GOOD))
    strengths = evaluation.strengths("global", "a smiling face")
    assert [group.alpha for group in strengths] == [2, 6]
    assert [group.scores["identity_edit"].mean for group in strengths] == pytest.approx([0.8, 0.4])
    pooled = evaluation.pooled("global", "a smiling face")
    assert (pooled.alpha, pooled.pairs) == (None, 2)
    assert pooled.scores["identity_edit"].mean == pytest.approx(0.6)
    (mapper,) = evaluation.strengths("mapper", "a smiling face")
    assert (mapper.alpha, mapper.scores["identity_edit"].mean) == (1.0, 0.9)


def test_the_least_of_equal_strengths_is_best():
    weak = GOOD | {"directional_edit": 0.0}
    strengths = {2.0: weak, 4.0: GOOD, 6.0: GOOD}
    rows = [row(n, alpha=alpha, **one) for alpha, one in strengths.items() for n in ("ann", "bob")]
    evaluation = evaluated(*rows)
    best = evaluation.best_strength("global", "a smiling face")
    assert best is not None
    assert (best.alpha, best.verdict) == (4.0, "works")
    assert evaluated(row(status="failed")).best_strength("global", "a smiling face") is None


def test_of_strengths_that_succeed_as_often_the_one_that_is_seen_is_best():
    hardly = GOOD | {"clip_cosine": 0.23, "directional_edit": 0.8, "identity_edit": 0.99}
    rows = [row(n, alpha=2.0, **hardly) for n in ("ann", "bob")]
    rows += [row(n, alpha=4.0, **GOOD) for n in ("ann", "bob")]
    best = evaluated(*rows).best_strength("global", "a smiling face")
    assert best is not None
    assert best.alpha == 4.0


def test_one_lucky_face_does_not_choose_the_strength_of_all():
    rows = [row(f"face-{n}", alpha=2.0, **GOOD) for n in range(19)]
    rows.append(row("lost", alpha=2.0, **GOOD | {"identity_edit": 0.1}))
    rows.append(row("lucky", alpha=8.0, **GOOD))
    best = evaluated(*rows).best_strength("global", "a smiling face")
    assert best is not None
    assert (best.alpha, best.verdict) == (2.0, "works")


def test_of_one_face_nothing_is_sure():
    rows = [row(alpha=alpha, **GOOD) for alpha in (2.0, 4.0)]
    assert only_group(*rows).verdict == "unsure"
    assert only_group(*rows, row("bob")).verdict == "unsure"
    assert only_group(*rows, row("bob", **GOOD)).verdict == "works"


def test_where_all_is_weak_one_lucky_pair_does_not_choose():
    near = GOOD | {"identity_edit": 0.45}
    lost = GOOD | {"directional_edit": 0.08, "identity_edit": 0.2}
    lucky = GOOD | {"directional_edit": 0.11, "identity_edit": 0.54}
    rows = [row(f"face-{n}", alpha=4.0, **near) for n in range(6)]
    rows += [row(f"face-{n}", alpha=1000.0, **(lost if n else lucky)) for n in range(6)]
    best = evaluated(*rows).best_strength("global", "a smiling face")
    assert best is not None
    assert (best.alpha, best.verdict) == (4.0, "weak")


@pytest.mark.parametrize(
    ("good", "verdict"), [(4, "works"), (3, "mixed"), (2, "mixed"), (1, "weak")]
)
def test_verdicts(good, verdict):
    rows = [row(str(n), **GOOD | {"clip_cosine": 0.3 if n < good else 0.1}) for n in range(5)]
    assert only_group(*rows).verdict == verdict


def test_settings_within_a_strength_are_counted():
    rows = [row(num_channels=10), row(num_channels=20), row(num_channels=10, beta=None)]
    assert only_group(*rows).settings == 2


def test_time_and_earlier_stages():
    rows = [row("ann", seconds=1.0), row("bob", seconds=3.0), row("bob", "mapper", seconds=None)]
    evaluation = evaluated(*rows, faces={"no_face": 2, "ok": 1})
    assert evaluation.faces == {"no_face": 2, "ok": 1}
    assert list(evaluation.timing) == ["global"]
    timing = evaluation.timing["global"]
    assert (timing.pairs, timing.mean, timing.median, timing.pairs_per_hour) == (
        2,
        2.0,
        2.0,
        1800.0,
    )


def test_no_rows():
    evaluation = evaluated()
    assert (evaluation.pairs, evaluation.statuses, evaluation.by_prompt) == (0, {}, [])


@pytest.mark.parametrize(
    "wrong", [{"directional": 1.5}, {"identity": math.nan}, {"confidence": 1.0}, {"resamples": 0}]
)
def test_criteria_outside_their_range(wrong):
    with pytest.raises(
        ConfigError, match=next(iter(wrong)) if "resamples" not in wrong else "0 resamples"
    ):
        Criteria(**wrong)


def test_examples_are_the_median_and_the_ends(collect):
    ranks = {"ann": 0.1, "bob": 0.5, "cid": 0.3, "dan": -0.2, "eve": 0.4}
    rows = [
        row(name, alpha=alpha, **GOOD | {"clip_cosine": 0.2 + rank, "identity_edit": 1.0})
        for name, rank in ranks.items()
        for alpha in (4.0, 2.0)
    ]
    rows.append(row("fay", **GOOD | {"identity_edit": None}))
    rows.append(row("bob", alpha=3.0, num_channels=7, **GOOD | {"directional_edit": 0.0}))
    scored, collected = score_rows(table(*rows), CRITERIA), collect(*rows)
    evaluation = evaluate_rows(collected, {}, CRITERIA)
    (examples,) = find_examples(collected, evaluation).values()
    found = {example.kind: example for example in examples}
    faces = {kind: scored.at[example.pair, "image_id"] for kind, example in found.items()}
    assert faces == {"typical": "cid", "best": "bob", "worst": "dan"}
    assert found["best"].rank == pytest.approx(0.5)
    strip = scored.loc[[*found["best"].strip]]
    assert strip["alpha"].tolist() == [2.0, 4.0]
    assert set(strip["image_id"]) == {"bob"}


def test_a_face_that_showed_it_before_is_an_example_only_where_no_other_is(collect):
    had, lacked = GOOD | {"clip_cosine_inversion": 0.35}, GOOD | {"clip_cosine": 0.35}
    rows = [row("ann", **had), row("bob", **lacked), row("cid", **GOOD)]
    collected = collect(*rows)
    (examples,) = find_examples(collected, evaluate_rows(collected, {}, CRITERIA)).values()
    assert {collected.faces[collected.face[example.pair]] for example in examples} == {"bob", "cid"}
    collected = collect(row("ann", **had))
    (examples,) = find_examples(collected, evaluate_rows(collected, {}, CRITERIA)).values()
    assert len(examples) == 1


def test_of_pairs_with_the_same_rank_none_is_best_or_worst(collect):
    collected = collect(*(row(name, **GOOD) for name in ("ann", "bob", "cid")))
    (examples,) = find_examples(collected, evaluate_rows(collected, {}, CRITERIA)).values()
    assert [example.kind for example in examples] == ["typical"]
    noise = {"ann": 3e-8, "bob": 1.5e-8, "cid": -4e-8}
    rows = [row(name, **GOOD | {"clip_cosine": 0.2 + by}) for name, by in noise.items()]
    collected = collect(*rows)
    (examples,) = find_examples(collected, evaluate_rows(collected, {}, CRITERIA)).values()
    assert [example.kind for example in examples] == ["typical"]


def test_rounding_takes_no_cosine_beyond_one():
    beyond = GOOD | {"image_edit": 1.00000024}
    for score in (only_group(row(**beyond)), only_group(row(**beyond), row("bob", **beyond))):
        found = score.scores["image_edit"]
        assert found.mean == 1.0
        assert (found.low or 0) <= found.mean <= (found.high or 1)


def test_one_pair_is_one_example(collect):
    collected = collect(row(**GOOD))
    (examples,) = find_examples(collected, evaluate_rows(collected, {}, CRITERIA)).values()
    assert [example.kind for example in examples] == ["typical"]


def test_every_score_has_a_number_or_none():
    for score in only_group(row(), row("bob")).scores.values():
        assert score == Estimate()
    assert set(only_group(row()).scores) == set(SCORES)


def test_off_target_is_what_lies_at_right_angles_to_the_text():
    random = np.random.default_rng(1)
    before, after, text = (v / np.linalg.norm(v) for v in random.normal(size=(3, 12)))
    change = after - before
    directional = float(change @ text / np.linalg.norm(change))
    across = change - (change @ text) * text
    given = {"image_edit": float(before @ after), "directional_edit": directional}
    score = only_group(row(**GOOD | given)).scores["off_target"]
    assert score.mean == pytest.approx(np.linalg.norm(across))


def test_many_faces_are_resampled_in_bundles(monkeypatch):
    rows = spread_rows(600)
    exact = only_group(*rows).scores["identity_edit"]
    monkeypatch.setattr(tasks.report.evaluation, "_BUNDLES", 300)
    bundled = only_group(*rows).scores["identity_edit"]
    assert (bundled.mean, bundled.count, bundled.faces) == (exact.mean, 600, 600)
    width, expected = bundled.high - bundled.low, exact.high - exact.low
    assert width == pytest.approx(expected, rel=0.2)
    assert width != expected
