"""How many shards of a stage may fail before it ends, and what it says then."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from flows.progress import say
from tasks.store.faults import StoreError, is_everywhere, is_lasting
from tasks.store.redaction import redact


class StageError(RuntimeError):
    """Shards of a stage failed; what is committed stays, and the same command continues.

    Args:
        told: What is done, what failed and why.
        hopeless: Whether each of them would fail again, see `is_hopeless`.
    """

    def __init__(self, told: str, hopeless: bool = False) -> None:
        super().__init__(told)
        self.hopeless = hopeless


class StageCancelled(StageError):  # noqa: N818
    """Somebody cancelled the run; what is committed stays, and the same command continues.

    Args:
        label: Of the stage.
        done: Shards that are done.
        shards: Shards of the stage.
        runs: The flow runs that end with it.
    """

    def __init__(self, label: str, done: int, shards: int, runs: Sequence[UUID]) -> None:
        super().__init__(
            f"{label}: cancelled when {done} of {shards} shards were done; "
            "give the same command to continue"
        )
        self.runs = runs


def is_hopeless(error: object) -> bool:
    """Return whether work would fail again: by what it was given, or a lasting fault."""
    if isinstance(error, StageError):
        return error.hopeless
    return isinstance(error, (ValueError, PermissionError)) or is_lasting(error)


@dataclass(frozen=True)
class FailureBudget:
    """How many shards of a stage may fail, their retries included, before no more are begun.

    A fault of the whole store (an expired credential, a full disk) ends the stage at once.

    Attributes:
        in_a_row: This many, one after the other, end the stage.
        share: More than this share of all shards ends it too, if they are more than `in_a_row`.
    """

    in_a_row: int = 3
    share: float = 0.1


@dataclass(frozen=True)
class Failure:
    """A shard that failed.

    Attributes:
        shard: Its number.
        error: What it raised, or what Prefect says of it.
    """

    shard: int
    error: object

    @property
    def reason(self) -> str:
        """Why, without credentials."""
        return _reason(self.error)


class Failures:
    """The failures of a stage, held against its budget.

    Args:
        budget: How many there may be.
        shards: Of the stage.

    Attributes:
        verdict: Why no more shards are begun; empty while more may be.
    """

    def __init__(self, budget: FailureBudget, shards: int) -> None:
        self._budget, self._shards = budget, shards
        self._all, self._in_a_row, self.verdict = list[Failure](), 0, ""

    def __bool__(self) -> bool:
        return bool(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def hopeless(self) -> bool:
        """Whether each shard would fail again, see `is_hopeless`."""
        return all(is_hopeless(failure.error) for failure in self._all)

    def succeed(self) -> None:
        """Take note of a shard that is done."""
        self._in_a_row = 0

    def fail(self, failure: Failure) -> None:
        """Take note of a shard that failed."""
        self._in_a_row += 1
        self._all.append(failure)
        self.verdict = self.verdict or self._judge(failure)

    def _judge(self, latest: Failure) -> str:
        budget, count = self._budget, len(self._all)
        if is_everywhere(latest.error):
            return "the others would fail in the same way"
        if self._in_a_row >= budget.in_a_row:
            return f"{self._in_a_row} failed in a row"
        if count > max(budget.in_a_row, budget.share * self._shards):
            return f"more than {budget.share:.0%} failed"
        return ""

    def tell(self, label: str, ended: int) -> str:
        """Say what is done, what failed and why, and how to go on.

        Args:
            label: Of the stage.
            ended: Shards that are done or failed.
        """
        count, rest = len(self._all), self._shards - ended
        lines = [f"{label}: {count} of {self._shards} shards failed, {ended - count} are done"]
        lines += [f"  {rest} were not begun, since {self.verdict}"] if rest else []
        lines += [f"  {line}" for line in _reasons(self._all)]
        return "\n".join([*lines, "what is committed stays: give the same command to continue"])


def tell_attempt(what: str, attempt: int, further: int, error: object) -> None:
    """Say that an attempt failed and is not the last.

    Args:
        what: Failed.
        attempt: Its number, from 1.
        further: How many there are after the first.
        error: What it raised.
    """
    reason = _reason(error.fault if isinstance(error, StoreError) else error)
    say(f"{what} failed in attempt {attempt} of {further + 1}, which is tried again: {reason}")


def _reason(error: object) -> str:
    if isinstance(error, BaseException):
        return redact(f"{type(error).__name__}: {error}")
    return redact(str(error))


_SHOWN_REASONS, _SHOWN_SHARDS = 3, 5


def _reasons(failures: Sequence[Failure]) -> list[str]:
    """The different reasons with their shards, the first ones."""
    shards: dict[str, list[int]] = {}
    for failure in failures:
        shards.setdefault(failure.reason, []).append(failure.shard)
    lines = []
    for reason, numbers in [*shards.items()][:_SHOWN_REASONS]:
        more = " ..." if len(numbers) > _SHOWN_SHARDS else ""
        named = ", ".join(map(str, sorted(numbers)[:_SHOWN_SHARDS]))
        lines.append(f"shard {named}{more}: {reason}")
    further = len(shards) - len(lines)
    return lines + ([f"... and {further} other reasons"] if further else [])
