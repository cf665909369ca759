"""What the result rows of a run say, as numbers: means with intervals, success, failures, time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray

from manifests.schemas import METRICS
from styleclip_ops.errors import ConfigError
from styleclip_ops.metrics import bootstrap_interval

SHARES = ("success", "identity_kept", "success_and_identity")
SCORES = (*METRICS, *SHARES)
Verdict = Literal["works", "mixed", "weak", "unscored"]
_WORKS, _MIXED = 0.8, 0.4
_SETTINGS = ["neutral_prompt", "beta", "num_channels", "mapper_uri", "options"]


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

    directional: float = 0.1
    identity: float = 0.5
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
        """Say in words what each share counts."""
        return {
            "success": (
                "share of scored pairs whose CLIP cosine to the target prompt is higher after the "
                "edit than before it (clip_cosine > clip_cosine_inversion) and whose change points "
                f"the way of the text (directional_edit >= {self.directional:g}). Pairs with alpha "
                "<= 0 are not asked to succeed and do not count"
            ),
            "identity_kept": f"share of scored pairs with identity_edit >= {self.identity:g}",
            "success_and_identity": "share of scored pairs that are both",
            "verdict": (
                f"works where success_and_identity is at least {_WORKS:.0%}, "
                f"mixed from {_MIXED:.0%}, weak below"
            ),
        }


@dataclass(frozen=True)
class Estimate:
    """A mean, and how far it depends on the faces that were drawn.

    Attributes:
        count: Values that are numbers.
        faces: Different faces among them.
        mean: Their mean; None without a value.
        low: Lower end of the interval; None below two faces.
        high: Upper end of the interval; None below two faces.
    """

    count: int = 0
    faces: int = 0
    mean: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Group:
    """Pairs of one method and one target prompt.

    Attributes:
        method: How they were edited.
        target_prompt: What they were edited towards.
        alpha: Their strength; None where the group holds all strengths.
        pairs: Rows, with those that failed.
        faces: Different images among the rows.
        settings: Different neutral prompts, channel choices, mappers and options among the rows.
        statuses: Rows by status.
        scores: By the names of `SCORES`, over rows with status ok.
        seconds: Of the rows with status ok.
    """

    method: str
    target_prompt: str
    alpha: float | None
    pairs: int
    faces: int
    settings: int
    statuses: Mapping[str, int]
    scores: Mapping[str, Estimate]
    seconds: Estimate

    @property
    def edited(self) -> int:
        """Rows whose status is ok."""
        return self.statuses.get("ok", 0)

    @property
    def failed(self) -> int:
        """Rows whose status is not ok."""
        return self.pairs - self.edited

    @property
    def verdict(self) -> Verdict:
        """Say in a word how many of the pairs succeed and keep the identity."""
        share = self.scores["success_and_identity"].mean
        if share is None:
            return "unscored"
        return "works" if share >= _WORKS else "mixed" if share >= _MIXED else "weak"


@dataclass(frozen=True)
class Timing:
    """How long the edits of one method took.

    Attributes:
        pairs: Edits with a time.
        mean: Seconds.
        median: Seconds.
        pairs_per_hour: Of one worker.
    """

    pairs: int
    mean: float
    median: float
    pairs_per_hour: float


@dataclass(frozen=True)
class Evaluation:
    """What a run achieved.

    Attributes:
        criteria: What counts as a success.
        pairs: Result rows.
        statuses: Result rows by status.
        faces: Rows of the faces ledger by status.
        by_prompt: A group for each prompt and method.
        by_alpha: A group for each prompt, method and strength.
        timing: By method.
    """

    criteria: Criteria
    pairs: int
    statuses: Mapping[str, int]
    faces: Mapping[str, int]
    by_prompt: Sequence[Group] = field(default=())
    by_alpha: Sequence[Group] = field(default=())
    timing: Mapping[str, Timing] = field(default_factory=dict)

    def strengths(self, method: str, target_prompt: str) -> list[Group]:
        """Return the groups of a method and prompt by ascending alpha."""
        wanted = (method, target_prompt)
        found = [group for group in self.by_alpha if (group.method, group.target_prompt) == wanted]
        return sorted(found, key=lambda group: _number(group.alpha))

    def pooled(self, method: str, target_prompt: str) -> Group:
        """Return the group of all strengths.

        Raises:
            KeyError: The run has no pair of this method and prompt.
        """
        for group in self.by_prompt:
            if (group.method, group.target_prompt) == (method, target_prompt):
                return group
        raise KeyError((method, target_prompt))

    def best_strength(self, method: str, target_prompt: str) -> Group | None:
        """Return the strength with the most successes that keep the identity, the least of equals.

        None where no pair of the method and prompt has both scores.
        """
        share = "success_and_identity"
        rated = [
            group
            for group in self.strengths(method, target_prompt)
            if group.scores[share].mean is not None
        ]
        return max(rated, key=lambda group: _number(group.scores[share].mean), default=None)


def evaluate_results(
    results: pa.Table, faces: pa.Table | None = None, criteria: Criteria | None = None
) -> Evaluation:
    """Evaluate the rows of a run.

    A column of metrics that is missing counts as one without values. NaN, infinity and null are no
    values, and a row that is not ok has none.

    Args:
        results: Rows with the columns of `manifests.schemas.RESULTS`.
        faces: Rows of the faces ledger.
        criteria: What counts as a success.
    """
    criteria = criteria or Criteria()
    statuses = faces["status"].to_pandas() if faces is not None else pd.Series(dtype=str)
    return evaluate_rows(score_rows(results, criteria), status_counts(statuses), criteria)


def evaluate_rows(rows: pd.DataFrame, faces: Mapping[str, int], criteria: Criteria) -> Evaluation:
    """Evaluate the rows of a run.

    Args:
        rows: Of `score_rows`.
        faces: Rows of the faces ledger by status.
        criteria: What counts as a success.
    """
    by_prompt, by_alpha = list[Group](), list[Group]()
    for part in _parts(rows, "target_prompt", "method"):
        pooled = _group(rows, part, criteria)
        strengths = [
            part[places] for places in _parts(rows["alpha"].iloc[part].to_frame(), "alpha")
        ]
        several = [_group(rows, p, criteria) for p in strengths] if len(strengths) > 1 else [pooled]
        alphas = [rows["alpha"].iloc[places[0]] for places in strengths]
        by_alpha += [replace(g, alpha=a) for g, a in zip(several, alphas, strict=True)]
        by_prompt.append(pooled)
    timed = rows.loc[rows["seconds"].notna(), ["method", "seconds"]]
    return Evaluation(
        criteria=criteria,
        pairs=len(rows),
        statuses=status_counts(rows["status"]),
        faces=faces,
        by_prompt=by_prompt,
        by_alpha=by_alpha,
        timing={
            str(timed["method"].iloc[places[0]]): _timing(timed["seconds"].iloc[places])
            for places in _parts(timed, "method")
        },
    )


def score_rows(results: pa.Table, criteria: Criteria) -> pd.DataFrame:
    """Return the rows with a column for each of `SCORES`; shares are 1 or 0, NaN where unknown."""
    rows = results.to_pandas()
    ok = rows["status"] == "ok"
    for name in (*METRICS, "clip_cosine_inversion", "seconds"):
        values = rows[name] if name in rows else pd.Series(np.nan, rows.index)
        known = ok & np.isfinite(pd.to_numeric(values).astype(float))
        rows[name] = values.where(known).astype(float)
    gain = rows["clip_cosine"] - rows["clip_cosine_inversion"]
    asked = gain.notna() & rows["directional_edit"].notna() & (rows["alpha"] > 0)
    success = (gain > 0) & (rows["directional_edit"] >= criteria.directional)
    kept = rows["identity_edit"] >= criteria.identity
    rows["success"] = success.astype(float).where(asked)
    rows["identity_kept"] = kept.astype(float).where(rows["identity_edit"].notna())
    # A product of numbers is known only where both are.
    rows["success_and_identity"] = rows["success"] * rows["identity_kept"]
    return rows


def status_counts(statuses: pd.Series) -> dict[str, int]:
    """Count rows by status, the most frequent first."""
    counts = statuses.value_counts()
    return {str(status): int(count) for status, count in counts.items() if count}


def _parts(rows: pd.DataFrame, *keys: str) -> list[NDArray[np.intp]]:
    """Places of rows with equal keys, in the order of their first rows."""
    numbers = np.zeros(len(rows), np.int64)
    for key in keys:
        codes, values = pd.factorize(rows[key], use_na_sentinel=False)
        numbers, _ = pd.factorize(numbers * len(values) + codes)
    order = np.argsort(numbers, kind="stable")
    ends = np.flatnonzero(np.diff(numbers[order])) + 1
    return np.split(order, ends) if len(rows) else []


def _group(rows: pd.DataFrame, places: NDArray[np.intp], criteria: Criteria) -> Group:
    # Column by column, because a copy of all would be as large as the rows.
    images = rows["image_id"].iloc[places]
    return Group(
        method=str(rows["method"].iloc[places[0]]),
        target_prompt=str(rows["target_prompt"].iloc[places[0]]),
        alpha=None,
        pairs=len(places),
        faces=images.nunique(),
        settings=len(rows[_SETTINGS].iloc[places].drop_duplicates()),
        statuses=status_counts(rows["status"].iloc[places]),
        scores={name: _estimate(rows[name].iloc[places], images, criteria) for name in SCORES},
        seconds=_estimate(rows["seconds"].iloc[places], images, criteria),
    )


def _estimate(scores: pd.Series, images: pd.Series, criteria: Criteria) -> Estimate:
    known = scores.dropna()
    if known.empty:
        return Estimate()
    mean = float(known.mean())
    # Pairs of one face are not independent, so faces are resampled: each stands for the sum of its
    # deviations (the linearised ratio estimator), whose mean over faces is the mean over pairs.
    deviations = (known - mean).groupby(images.loc[known.index], observed=True).sum()
    if len(deviations) < 2:
        return Estimate(len(known), len(deviations), mean)
    by_face = mean + deviations.to_numpy() * len(deviations) / len(known)
    interval = bootstrap_interval(
        torch.from_numpy(by_face), criteria.confidence, criteria.resamples
    )
    # The linearised values may leave the range that a mean cannot.
    low, high = max(interval.low, known.min()), min(interval.high, known.max())
    return Estimate(len(known), len(deviations), mean, float(low), float(high))


def _timing(seconds: pd.Series) -> Timing:
    mean = float(seconds.mean())
    return Timing(len(seconds), mean, float(seconds.median()), 3600 / mean if mean else 0.0)


def _number(value: float | None) -> float:
    return -np.inf if value is None else value
