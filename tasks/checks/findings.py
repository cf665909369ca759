"""Findings: what a check of data at rest or of assets has to say."""

from dataclasses import dataclass
from typing import Literal

Soundness = Literal["sound", "suspicious", "wrong"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        what: What was looked at.
        got: What it is.
        expected: What it should be.
        remedy: What to do; empty where nothing is to be done.
        verdict: `wrong` data or assets must not be used; `suspicious` ones need a look.
    """

    what: str
    got: str
    expected: str
    remedy: str = ""
    verdict: Soundness = "wrong"

    def __str__(self) -> str:
        if self.verdict == "sound":
            return f"{self.what}: {self.got}"
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.what}: got {self.got}, expected {self.expected}{remedy}"
