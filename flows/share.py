"""A share of a stage's shards: one worker of several that know nothing of each other.

They need no server, so that an array of jobs can be the workers. What they share is the store: the
shards are planned once, every worker does its own, and commits say which are done.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

PREPARE = "prepare"


class WorkerError(ValueError):
    """A worker is none of those that there are, or has nothing prepared to work on."""


@dataclass(frozen=True)
class Share:
    """What one process does of a stage.

    Attributes:
        prepares: Whether it plans the shards, and makes what they need.
        works: Whether it does shards.
        index, count: Its shards are index, index + count, index + 2 count, ...
    """

    prepares: bool = True
    works: bool = True
    index: int = 0
    count: int = 1

    def of(self, shards: Sequence[int]) -> list[int]:
        """Return those of the shards that are its own."""
        return [shard for shard in shards if shard % self.count == self.index]

    def require(self, prepared: bool, url: str) -> None:
        """Check that there is something prepared where this process does not prepare it.

        Raises:
            WorkerError: There is not.
        """
        if not (self.prepares or prepared):
            raise WorkerError(
                f"worker {self.index}/{self.count}: got {url}, which is not prepared, expected "
                "planned shards; give the same command with `--worker prepare` first, once"
            )


ALL = Share()


def read_share(worker: str) -> Share:
    """Return the share that a text names: all where empty, `prepare`, or i/n.

    Raises:
        WorkerError: It names none.
    """
    if not worker:
        return ALL
    if worker == PREPARE:
        return Share(works=False)
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", worker)
    if match is None or int(match[1]) >= int(match[2]):
        raise WorkerError(
            f"worker: got {worker!r}, expected i/n with i from 0 to n - 1, as 0/8 for the first of "
            f"eight, or `{PREPARE}`; how many shards this process does at a time is `--workers`"
        )
    return Share(prepares=False, index=int(match[1]), count=int(match[2]))
