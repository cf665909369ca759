"""A report keeps its rows small, and says the same of them."""

import dataclasses

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.schemas import METRICS, RESULTS
from tasks.evaluation import SHARES, Criteria, evaluate_rows, score_rows
from tasks.ledger import Ledger
from tasks.report_rows import collect_rows, read_shown
from tasks.storage import Folder

CRITERIA = Criteria(resamples=50)
SHARDS, ROWS = 3, 40


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
            row |= {"clip_cosine_inversion": 0.0, "identity_edit": None if i == 5 else 0.7}
            rows.append(row)
        table = pa.Table.from_pylist(rows, RESULTS)
        ledger.plan_shard(shard, table.select(["pair_id"]))
        ledger.commit(shard, table)
    return ledger


@pytest.fixture
def collected(ledger, tmp_path) -> pd.DataFrame:
    return collect_rows(ledger.results(), CRITERIA, Folder(str(tmp_path)), "metrics.parquet")


def test_small_rows_are_evaluated_as_whole_ones(ledger, collected):
    whole = score_rows(pa.concat_tables(ledger.results()), CRITERIA)
    expected, got = (evaluate_rows(rows, {}, CRITERIA) for rows in (whole, collected))
    # The order of the faces, which resampling draws by, may differ: intervals are nearly the same.
    for name in ("by_prompt", "by_alpha"):
        for one, other in zip(getattr(expected, name), getattr(got, name), strict=True):
            for score in one.scores:
                means = one.scores[score].mean, other.scores[score].mean
                assert means[0] == means[1] or means == pytest.approx((means[0],) * 2)
            left, right = (
                dataclasses.asdict(dataclasses.replace(g, scores={}, seconds=one.seconds))
                for g in (one, other)
            )
            assert left == right
    assert got.statuses == expected.statuses
    assert got.timing == expected.timing


def test_the_table_of_a_report_has_all_rows_and_columns(ledger, collected, tmp_path):
    table = pq.read_table(tmp_path / "metrics.parquet")
    assert table.column_names == [*RESULTS.names, *SHARES]
    results = pa.concat_tables(ledger.results())
    assert table.select(RESULTS.names).cast(RESULTS).equals(results)
    assert table["success"].null_count == collected["success"].isna().sum()


def test_shown_rows_have_their_own_texts(ledger, collected):
    places = [0, 2, 9, 45, 119]
    shown = read_shown(ledger, frozenset(range(SHARDS)), collected.loc[places])
    assert shown.index.tolist() == places
    assert shown["pair_id"].tolist() == ["pair-0", "pair-1", "pair-9", "pair-45", "pair-119"]
    assert shown["error"].dropna().tolist() == ["row 0", "row 9", "row 45"]
    assert shown["output_uri"].tolist() == [f"/run/{place}.png" for place in places]
    assert shown["options"].isna().all()
    assert shown["target_prompt"].fillna("").tolist()[:2] == ["a smile"] * 2


def test_rows_are_small_and_repetitions_are_seen(collected):
    assert collected["pair_id"].duplicated().sum() == 2
    own = collected.drop(columns=collected.select_dtypes("category").columns)
    assert own.memory_usage(index=False).sum() <= 160 * len(collected)


def test_a_run_without_results_has_no_rows(tmp_path):
    folder = Folder(str(tmp_path))
    rows = collect_rows([], CRITERIA, folder, "metrics.parquet")
    assert len(rows) == 0
    assert evaluate_rows(rows, {}, CRITERIA).by_prompt == []
    assert len(read_shown(Ledger(folder, RESULTS), frozenset(), rows)) == 0
    assert pq.read_table(tmp_path / "metrics.parquet").num_rows == 0
