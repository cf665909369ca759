"""A report keeps its rows small, and says the same of them."""

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from manifests.schemas import METRICS, RESULTS
from styleclip_ops.metrics import bootstrap_interval
from tasks.report import rows as report_rows
from tasks.report.evaluation import evaluate_rows
from tasks.report.rows import Rows, collect_rows
from tasks.report.scoring import DERIVED, SCORES, SHARES, Criteria, score_rows
from tasks.store.folders import Folder
from tasks.store.ledger import Ledger

CRITERIA = Criteria(resamples=50)
SHARDS, ROWS = 3, 40
# Scores that are neither shares nor cosines.
SCALES = {"clip_score": (0, 100), "gain": (-2, 2), "off_target": (0, 2)}


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    """Three shards of rows of two prompts, both methods, some failed, some without a metric."""
    ledger, random = Ledger(Folder(str(tmp_path / "run")), RESULTS), np.random.default_rng(3)
    for shard in range(SHARDS):
        rows = []
        for i in range(ROWS):
            place = shard * ROWS + i
            row = dict.fromkeys(RESULTS.names) | {
                "pair_id": f"pair-{place // 2 if place < 4 else place}",
                "image_id": f"face-{place % 7}",
                "neutral_prompt": "a face",
                "target_prompt": ("a smile", "<b>a hat</b>")[place % 2],
                "method": ("mapper", "global")[place // 3 % 2],
                "alpha": (4.0, 2.0)[place // 5 % 2],
                "beta": 0.15 if place % 2 else None,
                "generator_fingerprint": "g",
                "clip_fingerprint": "c",
                "code_version": "0",
                "shard": shard,
                "status": "ok" if place % 9 else "no_channel",
                "error": None if place % 9 else f"row {place}",
                "output_uri": f"/run/{place}.png",
                "seconds": 0.5,
            }
            row |= {name: float(random.uniform(-1, 1)) for name in METRICS}
            row |= {"clip_cosine_inversion": 0.0, "clip_score": random.uniform(0, 100)}
            row |= {"identity_edit": None if i == 5 else 0.7}
            rows.append(row)
        table = pa.Table.from_pylist(rows, RESULTS)
        ledger.plan_shard(shard, table.select(["pair_id"]))
        ledger.commit(shard, table)
    return ledger


@pytest.fixture
def collected(ledger, tmp_path) -> Rows:
    return collect_rows(ledger.results(), CRITERIA, tmp_path / "metrics.parquet")


@pytest.fixture
def plain(ledger) -> pd.DataFrame:
    return score_rows(pa.concat_tables(ledger.results()), CRITERIA)


def test_groups_are_those_of_a_plain_recomputation(collected, plain):
    got = evaluate_rows(collected, {}, CRITERIA)
    assert len(got.by_alpha) == 8
    for group in (*got.by_alpha, *got.by_prompt):
        own = plain[(plain["method"] == group.method)]
        own = own[own["target_prompt"] == group.target_prompt]
        own = own if group.alpha is None else own[own["alpha"] == group.alpha]
        assert group.statuses == own["status"].value_counts().to_dict()
        assert (group.pairs, group.faces) == (len(own), own["image_id"].nunique())
        varied = own[["neutral_prompt", "beta", "num_channels", "mapper_uri", "options"]]
        assert group.settings == len(varied.drop_duplicates())
        for name, score in group.scores.items():
            known = own[name].dropna()
            assert (score.count, score.mean) == (len(known), pytest.approx(known.mean()))
            mean, by_face = known.mean(), plain["image_id"][known.index]
            deviations = (known - mean).groupby(by_face).sum()
            # Faces are resampled in the order in which they first come.
            deviations = deviations.reindex(plain["image_id"].unique()).dropna()
            values = mean + deviations * len(deviations) / len(known)
            if name in SHARES and known.nunique() == 1:
                # Wilson's: 2 of 2 at 95 % leave the chance that a third fails.
                z = 1.959964
                margin = z**2 / (by_face.nunique() + z**2)
                wanted = (1 - margin, 1) if mean == 1 else (0, margin)
                assert (score.low, score.high) == pytest.approx(wanted)
                continue
            interval = bootstrap_interval(torch.tensor(values.to_numpy()), 0.95, 50)
            least, most = SCALES.get(name, (0, 1) if name in SHARES else (-1, 1))
            assert score.low == pytest.approx(max(interval.low, least))
            assert score.high == pytest.approx(min(interval.high, most))
            assert score.low - 1e-9 <= score.mean <= score.high + 1e-9
    assert got.statuses == plain["status"].value_counts().to_dict()
    assert (
        got.timing["global"].pairs == (plain["method"] == "global")[plain["status"] == "ok"].sum()
    )


def test_columns_are_those_of_the_scored_rows(collected, plain):
    for name in ("seconds", *SCORES):
        np.testing.assert_array_equal(collected.column(name), plain[name].to_numpy(float))


def test_values_that_are_none_and_rows_that_failed_have_no_number(ledger, tmp_path):
    table = pa.concat_tables(ledger.results())
    values = [1e9, math.inf, None, math.nan, 0.25, *([0.5] * (len(table) - 5))]
    place = table.column_names.index("identity_edit")
    table = table.set_column(place, RESULTS.field(place), pa.array(values, pa.float64()))
    rows = collect_rows([table], CRITERIA, tmp_path / "metrics.parquet")
    # The first row did not succeed.
    assert np.isnan(rows.column("identity_edit")[:4]).all()
    assert rows.column("identity_edit")[4] == 0.25
    assert rows.table(np.arange(5))["identity_edit"].isna().tolist() == [True] * 4 + [False]


def test_the_table_of_a_report_has_all_rows_and_columns(ledger, collected, plain):
    table = pq.read_table(collected.path)
    assert table.column_names == [*RESULTS.names, *DERIVED]
    results = pa.concat_tables(ledger.results())
    assert table.select(RESULTS.names).cast(RESULTS).equals(results)
    assert table["success"].null_count == plain["success"].isna().sum()


def test_shown_rows_have_their_own_texts(collected):
    places = [0, 2, 9, 45, 119]
    shown = collected.table(np.array(places))
    assert shown.index.tolist() == places
    assert shown["pair_id"].tolist() == ["pair-0", "pair-1", "pair-9", "pair-45", "pair-119"]
    assert shown["error"].dropna().tolist() == ["row 0", "row 9", "row 45"]
    assert shown["output_uri"].tolist() == [f"/run/{place}.png" for place in places]
    assert shown["image_id"].tolist() == [f"face-{place % 7}" for place in places]
    assert shown["alpha"].tolist() == [(4.0, 2.0)[place // 5 % 2] for place in places]
    assert shown["options"].isna().all()
    assert shown["target_prompt"].tolist()[:2] == ["a smile"] * 2


def test_rows_are_small_and_repetitions_are_seen(collected):
    assert collected.repeated == 2
    held = (collected.setting, collected.face, collected.status)
    assert sum(codes.nbytes for codes in held) == 9 * len(collected)
    assert len(collected.settings) == 8


def test_small_tables_share_a_row_group_and_large_ones_do_not(ledger, monkeypatch):
    assert [len(group) for group in report_rows._row_groups(ledger.results())] == [SHARDS * ROWS]
    monkeypatch.setattr(report_rows, "_GROUP_BYTES", 1000)
    assert [len(group) for group in report_rows._row_groups(ledger.results())] == [ROWS] * SHARDS


def test_a_run_without_results_has_no_rows(tmp_path):
    rows = collect_rows([], CRITERIA, tmp_path / "metrics.parquet")
    assert len(rows) == 0
    assert evaluate_rows(rows, {}, CRITERIA).by_prompt == []
    assert len(rows.table(np.arange(0))) == 0
    assert pq.read_table(tmp_path / "metrics.parquet").num_rows == 0
