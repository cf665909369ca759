"""What the result rows of a run say, as numbers: means with intervals, success, failures, time."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from styleclip_ops.metrics import bootstrap_interval
from tasks.report.rows import Rows, distinct
from tasks.report.scoring import COSINE, MIXED, SCORES, SHARE, SHARES, WORKS, Criteria, limits_of

Verdict = Literal["works", "mixed", "weak", "unsure", "unscored"]
_PROMPT, _STRENGTH = ["target_prompt", "method"], ["target_prompt", "method", "alpha"]
_BOTH = "success_and_identity"
_VARIED = ["neutral_prompt", "beta", "num_channels", "mapper_uri", "options"]

# Beyond this many faces an interval resamples as many bundles of faces: its width is then known to
# one percent, and drawing every face again would take minutes and say the same.
_BUNDLES = 5_000

Numbers = NDArray[np.float64]
Places = NDArray[np.int32]


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
        faces: Different images among the rows with status ok.
        settings: Different neutral prompts, channel choices, mappers and options among the rows.
        statuses: Rows by status.
        scores: By the names of `SCORES`, over rows with status ok.
        seconds: Of the rows with status ok.
        failures: Share of the rows whose status is not ok.
        already: Rows whose face may show before what is asked for, see `may_have_it`.
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
    failures: Estimate = Estimate()
    already: int = 0

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
        both = self.scores[_BOTH]
        if both.mean is None:
            return "unscored"
        if both.faces < 2:
            return "unsure"
        return "works" if both.mean >= WORKS else "mixed" if both.mean >= MIXED else "weak"


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
        """Return the strength with the largest share of successes that keep the identity.

        Strengths that fewer than half as many faces have as another one are not compared with it.
        Of equals it is that with the largest product of gain and identity, which tells an edit that
        is seen from one that hardly is. Where even the most are weak, a few pairs would decide by
        chance: there the product alone decides. None where no pair of the method and prompt has
        both scores.
        """
        rated = [
            group
            for group in self.strengths(method, target_prompt)
            if group.scores[_BOTH].mean is not None
        ]
        faces = max((group.scores[_BOTH].faces for group in rated), default=0)
        rated = [group for group in rated if 2 * group.scores[_BOTH].faces >= faces]
        most = max((_share(group) for group in rated), default=0.0)
        best = rated if most < MIXED else [group for group in rated if _share(group) == most]
        return max(best, key=_reach, default=None)


def evaluate_rows(rows: Rows, faces: Mapping[str, int], criteria: Criteria) -> Evaluation:
    """Evaluate the rows of a run.

    Args:
        rows: Of the run.
        faces: Rows of the faces ledger by status.
        criteria: What counts as a success.
    """
    by_alpha = [*_groups(rows, _parts(rows, _STRENGTH), criteria)]
    strengths: dict[tuple[str, str], list[Group]] = {}
    for group in by_alpha:
        strengths.setdefault((group.target_prompt, group.method), []).append(group)
    # One strength is all strengths.
    parts = _parts(rows, _PROMPT)
    several = [part for part in parts if len(strengths[_key(rows, part)]) > 1]
    pooled = {(g.target_prompt, g.method): g for g in _groups(rows, several, criteria)}
    by_prompt = [
        replace(pooled.get(key) or strengths[key][0], alpha=None)
        for key in (_key(rows, part) for part in parts)
    ]
    return Evaluation(
        criteria=criteria,
        pairs=len(rows),
        statuses=rows.count_statuses(),
        faces=faces,
        by_prompt=by_prompt,
        by_alpha=by_alpha,
        timing=dict(_timings(rows)),
    )


def estimate_mean(
    values: Numbers,
    faces: Places,
    criteria: Criteria,
    *,
    share: bool = False,
    limits: tuple[float, float] | None = None,
) -> Estimate:
    """Estimate a mean, and by resampling faces how far it depends on them.

    Args:
        values: [N]; NaN is no value.
        faces: [N] number of the face of each value.
        criteria: How sure the interval is.
        share: The values are shares of 0 or 1, or differences of such. Where all are alike,
            resampling says that no face differs, and Wilson's interval (JASA, 1927) how many still
            may.
        limits: What a mean cannot leave; those of shares or of cosines where None.
    """
    least, most = limits or (SHARE if share else COSINE)
    known = ~np.isnan(values)
    if not known.any():
        return Estimate()
    values, (_, places) = values[known], np.unique(faces[known], return_inverse=True)
    # Rows from before may hold cosines that rounding left beyond 1.
    mean, count = min(max(float(values.mean()), least), most), int(places.max()) + 1
    if count < 2:
        return Estimate(len(values), count, mean)
    if share and np.ptp(values) == 0:
        z = NormalDist().inv_cdf((1 + criteria.confidence) / 2)
        margin = z**2 / (count + z**2)
        low, high = mean - margin, mean + margin
    else:
        # Pairs of one face are not independent, so faces are resampled: each stands for the sum of
        # its deviations (the linearised ratio estimator), whose mean over faces is the mean over
        # pairs.
        drawn = min(count, _BUNDLES)
        deviations = np.bincount(places % drawn, values - mean, drawn)
        _, low, high = bootstrap_interval(
            torch.from_numpy(mean + deviations * drawn / len(values)),
            criteria.confidence,
            criteria.resamples,
        )
    return Estimate(
        len(values), count, mean, min(max(low, least), mean), max(min(high, most), mean)
    )


def may_have_it(before: Numbers, after: Numbers) -> NDArray[np.bool_]:
    """Return which faces may show before their edits what these ask for, as far as CLIP can tell.

    Args:
        before: [N] cosines of inversions to the prompt; NaN where unknown.
        after: [N] those of edits.

    Returns:
        [N]: more than half of the way from the median inversion to the median edit. None where
        edits do not come nearer.
    """
    known = ~np.isnan(before) & ~np.isnan(after)
    if not known.any():
        return np.zeros(len(before), bool)
    start, end = np.median(before[known]), np.median(after[known])
    return (before > (start + end) / 2) & bool(end > start)


def _parts(rows: Rows, keys: list[str]) -> list[Places]:
    """Places of the rows with equal keys, in the order of their first rows."""
    of_setting, _ = distinct(rows.settings[keys])
    # Settings are numbered as they come, and so are their keys.
    numbers = of_setting[rows.setting]
    order = np.argsort(numbers, kind="stable").astype(np.int32)
    ends = np.flatnonzero(np.diff(numbers[order])) + 1
    return np.split(order, ends) if len(rows) else []


def _key(rows: Rows, part: Places) -> tuple[str, str]:
    prompt, method = rows.settings.loc[rows.setting[part[0]], _PROMPT]
    return str(prompt), str(method)


def _groups(rows: Rows, parts: Sequence[Places], criteria: Criteria) -> Iterator[Group]:
    faces = [rows.face[part] for part in parts]
    scores = list[dict[str, Estimate]]({} for _ in parts)
    # Column by column, because all of them together would be large.
    for name in (*SCORES, "seconds"):
        values = rows.column(name)
        for part, own, found in zip(parts, faces, scores, strict=True):
            found[name] = estimate_mean(
                values[part],
                own,
                criteria,
                share=name in SHARES,
                limits=limits_of(name),
            )
    before, after = rows.column("clip_cosine_inversion"), rows.column("clip_cosine")
    for part, own, found in zip(parts, faces, scores, strict=True):
        prompt, method = _key(rows, part)
        settings = rows.settings.loc[np.unique(rows.setting[part])]
        yield Group(
            method=method,
            target_prompt=prompt,
            alpha=float(settings["alpha"].iloc[0]),
            pairs=len(part),
            faces=len(rows.edited_faces(part)),
            settings=len(settings[_VARIED].drop_duplicates()),
            statuses=rows.count_statuses(part),
            seconds=found.pop("seconds"),
            failures=estimate_mean((~rows.ok[part]).astype(float), own, criteria, share=True),
            scores=found,
            already=int(may_have_it(before[part], after[part]).sum()),
        )


def _timings(rows: Rows) -> Iterator[tuple[str, Timing]]:
    values = rows.column("seconds")
    for part in _parts(rows, ["method"]):
        seconds = values[part]
        seconds = seconds[~np.isnan(seconds)]
        if len(seconds):
            mean, median = float(seconds.mean()), float(np.median(seconds))
            method = str(rows.settings.at[rows.setting[part[0]], "method"])
            yield method, Timing(len(seconds), mean, median, 3600 / mean if mean else 0.0)


def _share(group: Group) -> float:
    return _number(group.scores[_BOTH].mean)


def _reach(group: Group) -> float:
    """How much nearer to the text the pairs came, and kept who they are."""
    both = (group.scores[name].mean for name in ("gain", "identity_edit"))
    return math.prod(max(mean or 0.0, 0.0) for mean in both)


def _number(value: float | None) -> float:
    return -np.inf if value is None else value
