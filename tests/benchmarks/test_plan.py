"""The plan for many pairs: counts, dollars, and the simulation of workers that share a server."""

from collections import Counter

import pytest

from benchmarks.endurance.plan import Measured, Plan, breaks, dollars, measure, show, simulate


@pytest.fixture
def measured() -> Measured:
    kinds = Counter(get_object=10, head_object=6, put_object=2)
    return Measured(kinds, listings_per_shard=1, prepare=1e-4, report=1e-5)


def test_shards_objects_requests_and_dollars_are_counted(measured):
    plan = Plan(pairs=1_000_000, images=10_000, shard_size=1_000, workers=1)
    assert (plan.shards, plan.objects(tars=True), plan.objects(tars=False)) == (
        1_000,
        4_000,
        1_003_000,
    )
    tars, files = (plan.requests(measured, kind) for kind in (True, False))
    assert tars == {
        "get_object": 10_000,
        "head_object": 6_000,
        "put_object": 3_000,
        "list_objects_v2": 1_002,
    }
    assert files["put_object"] == 1_002_000
    assert dollars(tars) == pytest.approx(4.002 * 0.005 + 16 * 0.0004)


def test_workers_wait_for_a_server_that_is_too_slow_for_them(measured):
    # A hundred workers ask for 100 task runs a second, and get 20.
    slow = Plan(10**6, 10**4, shard_size=10, workers=100)
    assert simulate(slow, requests=0, shards=5_000, seed=1) == pytest.approx(0.2, abs=0.02)
    few = Plan(10**6, 10**4, shard_size=1_000, workers=10)
    assert simulate(few, requests=0, shards=1_000, seed=1) > 0.9
    assert simulate(few, requests=2_000, shards=1_000, seed=1) == pytest.approx(0.5, abs=0.03)


def test_what_breaks_is_in_order(measured, capsys):
    limits = breaks(Plan(10**8, 10**6, 1_024, 100), measured, memory=16 * 2**30)
    reached = [pairs for pairs, _ in limits]
    assert reached == sorted(reached)
    assert all(show(measured, 10**8, 10**6, 16 * 2**30).values())
    assert "100,000,000 pairs  the largest manifest that is read" in capsys.readouterr().out


def test_requests_are_counted_on_a_real_store(tmp_path, s3_endpoint, monkeypatch):
    s3_endpoint.create_bucket(Bucket="endurance")
    small = measure(tmp_path, rows=100)
    assert small.per_shard["put_object"] == 2
    assert 0 < small.per_shard.total() < 100
