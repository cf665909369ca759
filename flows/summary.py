"""What a flow tells when it ends."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flows.progress import describe_counts
from manifests.schemas import LATENT_FAILURES, RESULT_FAILURES

# A target of `tune` has a word of its own.
_FAILURES = {*LATENT_FAILURES, *RESULT_FAILURES, "not reached"}
_AND = " and "
# Of findings: `--json` prints one line.
MOST_IN_JSON = 1000
# Shorter times would round to 0 s.
_TOLD_SECONDS = 0.5


@dataclass(frozen=True)
class Summary:
    """The end of a stage.

    Attributes:
        stage: Its name.
        wrote: URL of what it wrote, or two with "and" between them.
        counts: Rows by status that this call worked on; empty where all was done before.
        seconds: How long it took.
        facts: Further plain values.
        aside: What else there is to say in the line: where time went, or how good it is.
        undone: What is left to do all the same, and how; empty where nothing is.
        fruitless: All that was asked for failed before, and nothing was done now.
    """

    stage: str
    wrote: str
    counts: Mapping[str, int]
    seconds: float
    facts: Mapping[str, object] = field(default_factory=dict)
    aside: str = field(default="", kw_only=True)
    undone: str = field(default="", kw_only=True)
    fruitless: bool = field(default=False, kw_only=True)

    @property
    def failed(self) -> bool:
        """Whether something that was asked for is not there at all, or a check found faults."""
        faults = self.counts.get("wrong", 0) + self.counts.get("left", 0)
        got = {status for status, count in self.counts.items() if count}
        nothing = got & _FAILURES and got <= {*_FAILURES, "sound"}
        return bool(faults or nothing or self.fruitless)

    @property
    def line(self) -> str:
        """One line for people."""
        verb = "see" if self.undone else "it is all in"
        verb = "wrote" if any(self.counts.values()) else verb
        return f"{self.work}; {verb} {_address(self.wrote)}"

    @property
    def work(self) -> str:
        """What was done, and how long it took."""
        nothing = "nothing done" if self.undone else "nothing left to do"
        counts = describe_counts(self.counts) or nothing
        told = "; ".join(filter(None, (self.aside, self.undone)))
        aside = f" ({told})" if told else ""
        took = f" in {self.seconds:.0f} s" if self.seconds >= _TOLD_SECONDS else ""
        return f"{self.stage}: {counts}{took}{aside}"


def _address(urls: str) -> str:
    """Pages of this machine as terminals and browsers open them; all else as it is."""
    return _AND.join(
        Path(url).as_uri() if url.startswith("/") and url.endswith(".html") else url
        for url in urls.split(_AND)
    )


@dataclass(frozen=True)
class PhotosSummary(Summary):
    """The end of a stage over photographs, of which one that cannot be used is no failure.

    Attributes:
        unmended: Damaged crops that could not be cut again.
    """

    unmended: int = field(default=0, kw_only=True)

    @property
    def failed(self) -> bool:
        """Whether crops stay damaged: that a workspace has no face at all is raised."""
        return self.unmended > 0


@dataclass(frozen=True)
class Check(Summary):
    """The end of a check, which reads what it names and writes nothing."""

    @property
    def line(self) -> str:
        """One line for people."""
        return f"{self.work}; read {self.wrote}"


@dataclass(frozen=True)
class InputCheck(Check):
    """The end of a check of what other commands are given, in which a fault is bad input."""
