"""Several processes at the shards of one stage."""

from collections.abc import Callable

from prefect import flow

from flows import progress
from flows.shards import in_own_order, run_shards


def test_processes_share_the_shards_of_a_stage():
    shards, committed, rounds = range(100), set[int](), 0
    orders = [iter(in_own_order(shards)) for _ in range(2)]
    while len(committed) < len(shards):
        # Each takes the next one that nobody has committed; both take as long.
        committed |= {next((s for s in order if s not in committed), 0) for order in orders}
        rounds += 1
    assert rounds < 70


def test_every_run_of_a_stage_has_an_order_of_its_own():
    begun = list[int]()

    def work(shard: int) -> dict[str, int]:
        begun.append(shard)
        return {"ok": 1}

    @flow(name="stage")
    def stage() -> dict[str, int]:
        return run_shards("stage", work, range(8), 1, {}) | run_shards(
            "stage", work, range(8), 1, {}
        )

    assert stage() == {"ok": 8}
    assert sorted(begun[:8]) == sorted(begun[8:]) == [*range(8)]
    assert begun != [*range(8)] * 2


def test_a_shard_that_tells_how_far_it_is_moves_the_bar(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", -1.0)

    def work(shard: int, on_progress: Callable[[float], None]) -> dict[str, int]:
        on_progress(0.25)
        return {"ok": 1}

    @flow(name="stage")
    def stage() -> dict[str, int]:
        return run_shards("stage", work, range(2), 1, {}, tells=True)

    assert stage() == {"ok": 2}
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stage: ")]
    assert told[0] == "stage: 0.25 of 2"
    assert [line for line in told if line.startswith("stage: 1.25 of 2, ETA 0 s  1 ok")]
