"""Several processes at the shards of one stage."""

from prefect import flow

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
