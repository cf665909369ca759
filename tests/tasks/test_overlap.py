"""Work behind other work: bounded, whole at the end, and its errors are not lost."""

import threading

import pytest

from tasks.edits import edit_pairs_shard
from tasks.outputs import FileOutput
from tasks.overlap import behind
from tasks.runs import run_ledger

MOST = 3


def test_no_more_calls_wait_than_may_and_all_are_done_at_the_end():
    open_gate, begun, done = threading.Event(), list[int](), list[int]()

    def call(number: int) -> None:
        open_gate.wait(20)
        done.append(number)

    def give() -> None:
        with behind(MOST) as later:
            for number in range(10):
                begun.append(number)
                later(lambda number=number: call(number))

    thread = threading.Thread(target=give)
    thread.start()
    while len(begun) <= MOST:
        thread.join(0.01)
    thread.join(0.1)
    # One more is offered, and waits to be taken.
    assert (begun, done) == ([*range(MOST + 1)], [])
    open_gate.set()
    thread.join(20)
    assert sorted(done) == [*range(10)]


def test_an_error_ends_the_block():
    def fail() -> None:
        raise OSError("disk full")

    def give() -> None:
        with behind(MOST) as later:
            for _ in range(100):
                later(fail)

    with pytest.raises(OSError, match="disk full"):
        give()


def test_a_shard_whose_images_cannot_be_written_is_not_committed(finished, monkeypatch):
    finished.edit("third", shards=0)
    folder = finished.run("third")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(FileOutput, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        edit_pairs_shard(folder.url, "cpu", 0)
    assert run_ledger(folder).committed() == []
