"""Several processes at the shards of one stage."""

import threading
import time
from contextvars import copy_context

from prefect import flow

from flows.shards import run_shards

SHARDS = 24


def test_two_at_the_same_stage_share_its_shards():
    committed, begun = set[int](), list[int]()

    def work(shard: int) -> dict[str, int]:
        if shard in committed:
            return {}
        begun.append(shard)
        time.sleep(0.1)
        committed.add(shard)
        return {"ok": 1}

    @flow(name="stage")
    def stage() -> None:
        run_shards("stage", work, range(SHARDS), 1, {})

    # The server that the tests use is known by context.
    threads = [threading.Thread(target=copy_context().run, args=(stage,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert committed == {*range(SHARDS)}
    # A few are begun by both, most of them at the end; in the same order it would be all.
    assert len(begun) < 1.5 * SHARDS
