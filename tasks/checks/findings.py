"""Findings: what a check of data at rest or of assets has to say."""

from dataclasses import dataclass
from typing import Literal

from styleclip_ops.errors import ConfigError
from tasks.directions import DirectionStoreError
from tasks.latents import LatentStoreError
from tasks.mappers import MapperError
from tasks.runs import RunError
from tasks.store.faults import StoreError
from tasks.store.ledger import LedgerError

# What says by itself what is wrong, where, and what to do.
_TOLD = (
    *(ConfigError, DirectionStoreError, LatentStoreError, LedgerError, MapperError, RunError),
    StoreError,
)

Soundness = Literal["sound", "suspicious", "wrong"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        what: What was looked at; of an error that says all of it, its message alone.
        got: What it is.
        expected: What it should be.
        remedy: What to do; empty where nothing is to be done.
        verdict: `wrong` data or assets must not be used; `suspicious` ones need a look.
    """

    what: str
    got: str = ""
    expected: str = ""
    remedy: str = ""
    verdict: Soundness = "wrong"

    def __str__(self) -> str:
        if not self.got:
            return self.what
        if self.verdict == "sound":
            return f"{self.what}: {self.got}"
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.what}: got {self.got}, expected {self.expected}{remedy}"


def unreadable(
    what: str, error: Exception, expected: str = "content that can be read", remedy: str = ""
) -> Finding:
    """Tell of what cannot be read, with one remedy: that of the error, where it has one."""
    if isinstance(error, _TOLD):
        return Finding(str(error))
    said = str(error) or type(error).__name__
    return Finding(what, f"an error: {said}", expected, remedy or "restore it from a copy")
