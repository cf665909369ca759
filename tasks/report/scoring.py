"""What counts as a success: scores of result rows that follow from their metrics."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from manifests.schemas import METRICS
from styleclip_ops.errors import ConfigError
from styleclip_ops.strength import LEAST_DIRECTIONAL, LEAST_IDENTITY

SHARES = ("success", "identity_kept", "success_and_identity")
# What `score_rows` adds to the metrics of a row.
DERIVED = ("gain", "off_target", *SHARES)
SCORES = (*METRICS, *DERIVED)
# What the mean of a score cannot leave.
COSINE, SHARE, DISTANCE = (-1.0, 1.0), (0.0, 1.0), (0.0, math.inf)
_LIMITS = {
    "clip_score": (0.0, 100.0),
    "gain": (-2.0, 2.0),
    "off_target": (0.0, 2.0),
    "seconds": DISTANCE,
}
WORKS, MIXED = 0.8, 0.4
# Cosines of equal pictures are this near 1.
_UNCHANGED = 1e-6


@dataclass(frozen=True)
class Criteria:
    """What counts as a success, and how sure the numbers are.

    Attributes:
        directional: Smallest `directional_edit` of a success, -1 to 1.
        identity: Smallest `identity_edit` that counts as the same person, -1 to 1.
        confidence: Of the intervals, between 0 and 1.
        resamples: Bootstrap samples of an interval.

    Raises:
        ConfigError: A value is outside its range.
    """

    directional: float = LEAST_DIRECTIONAL
    identity: float = LEAST_IDENTITY
    confidence: float = 0.95
    resamples: int = 1000

    def __post_init__(self) -> None:
        cosines = {"directional": self.directional, "identity": self.identity}
        for name, value in cosines.items():
            if not -1 <= value <= 1:
                raise ConfigError(f"{name}: got {value}, expected a cosine from -1 to 1")
        if not 0 < self.confidence < 1 or self.resamples < 1:
            raise ConfigError(
                f"confidence: got {self.confidence} with {self.resamples} resamples, "
                "expected 0 to 1 and >= 1"
            )

    def definitions(self) -> Mapping[str, str]:
        """Say in words what each derived score is."""
        return {
            "success": (
                "share of scored pairs whose CLIP cosine to the target prompt is higher after the "
                "edit than before it (clip_cosine > clip_cosine_inversion) and whose change points "
                f"the way of the text (directional_edit >= {self.directional:g}). A pair that was "
                "not changed at all is no success; pairs with alpha <= 0 are not asked to succeed "
                "and do not count"
            ),
            "identity_kept": f"share of scored pairs with identity_edit >= {self.identity:g}",
            "success_and_identity": "share of scored pairs that are both",
            "gain": (
                "how much nearer the edit is to the target prompt than the inversion, in CLIP's "
                "cosine: clip_cosine - clip_cosine_inversion"
            ),
            "off_target": (
                "how much changed that the text did not ask for: the length of the part of the "
                "CLIP image change that is at right angles to the text direction, "
                "sqrt(2 (1 - image_edit)) sqrt(1 - directional_edit^2), of embeddings of length 1. "
                "0 where nothing changed, or only what was asked for"
            ),
            "verdict": (
                f"works where success_and_identity is at least {WORKS:.0%}, "
                f"mixed from {MIXED:.0%}, weak below; unsure of one face, which says nothing of "
                "others"
            ),
        }


def limits_of(score: str) -> tuple[float, float]:
    """Return what the mean of a score, a share or the seconds of a pair cannot leave."""
    return SHARE if score in (*SHARES, "failed") else _LIMITS.get(score, COSINE)


def score_rows(results: pa.Table, criteria: Criteria) -> pd.DataFrame:
    """Return the rows with a column for each of `SCORES`; shares are 1 or 0, NaN where unknown.

    NaN, infinity and null are no values, a row that is not ok has none, and a column that is
    missing counts as one without values.
    """
    rows = results.to_pandas()
    ok = rows["status"] == "ok"
    for name in (*METRICS, "clip_cosine_inversion", "seconds"):
        values = rows[name] if name in rows else pd.Series(np.nan, rows.index)
        known = ok & np.isfinite(pd.to_numeric(values).astype(float))
        rows[name] = values.where(known).astype(float)
    directional = rows["directional_edit"]
    # Rounding leaves cosines a little beyond 1.
    length = np.sqrt(2 * (1 - rows["image_edit"]).clip(lower=0))
    rows["off_target"] = length * np.sqrt((1 - directional**2).clip(lower=0))
    rows["gain"] = gain = rows["clip_cosine"] - rows["clip_cosine_inversion"]
    unchanged = directional.isna() & (rows["image_edit"] > 1 - _UNCHANGED)
    rows["off_target"] = rows["off_target"].mask(unchanged, 0.0)
    asked = gain.notna() & (directional.notna() | unchanged) & (rows["alpha"] > 0)
    success = (gain > 0) & (directional >= criteria.directional)
    kept = rows["identity_edit"] >= criteria.identity
    rows["success"] = success.astype(float).where(asked)
    rows["identity_kept"] = kept.astype(float).where(rows["identity_edit"].notna())
    # A product of numbers is known only where both are.
    rows["success_and_identity"] = rows["success"] * rows["identity_kept"]
    return rows
