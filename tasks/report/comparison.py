"""Two runs side by side: how the pairs that both have differ, and whether that is drift."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.report.evaluation import Estimate, Evaluation, Numbers, Places, estimate_mean
from tasks.report.examples import ROUNDING, rank_pairs
from tasks.report.rows import FINGERPRINTS, Rows
from tasks.report.scoring import SHARES, Criteria, limits_of

# By how much a mean may differ before that is drift, if its interval is all on one side of 0.
DRIFT_TOLERANCES: Mapping[str, float] = {
    "success": 0.05,
    "identity_kept": 0.05,
    "directional_edit": 0.02,
    "identity_edit": 0.02,
    "off_target": 0.02,
    "identity_inversion": 0.02,
    "failed": 0.01,
}
LOWER_IS_BETTER = ("off_target", "failed")
# A mapper has another address with every generator, and other weights are what is compared.
_SAME = ["target_prompt", "neutral_prompt", "method", "alpha", "beta", "num_channels", "options"]

Change = Literal["better", "worse", "same", "unknown"]


@dataclass(frozen=True)
class Difference:
    """How the pairs of one method and prompt differ: this run minus the other.

    Attributes:
        method: How they were edited.
        target_prompt: What they were edited towards.
        paired: Whether the same pairs are compared; else the means of all pairs of each run.
        pairs: That are compared; those of this run where they are not paired.
        scores: Mean differences by the names of `DRIFT_TOLERANCES`.
    """

    method: str
    target_prompt: str
    paired: bool
    pairs: int
    scores: Mapping[str, Estimate]

    def change(self, name: str) -> Change:
        """Say in a word how a score changed; `same` where the interval holds 0."""
        score = self.scores[name]
        if score.mean is None or score.low is None or score.high is None:
            return "unknown"
        if score.low <= 0 <= score.high:
            return "same"
        return "better" if (score.mean > 0) != (name in LOWER_IS_BETTER) else "worse"

    @property
    def drift(self) -> tuple[str, ...]:
        """The scores that changed by more than may be; none where other pairs are compared."""
        if not self.paired:
            return ()
        return tuple(
            name
            for name, tolerance in DRIFT_TOLERANCES.items()
            if self.change(name) in ("better", "worse")
            and abs(self.scores[name].mean or 0) >= tolerance
        )


@dataclass(frozen=True)
class Pairing:
    """Pairs that two runs have.

    Attributes:
        mine: Places of their rows in this run, ascending.
        theirs: Places of their rows in the other.
    """

    mine: Places
    theirs: Places


@dataclass(frozen=True)
class Comparison:
    """What two runs differ in.

    Attributes:
        name: Of the other run.
        url: Of the other run.
        others: Roles whose networks differ, and the kinds of assets that do.
        pairs: Pairs that both have.
        apart: Where there is none, in what they differ.
        differences: By method and prompt.
    """

    name: str
    url: str
    others: Sequence[str]
    pairs: int
    apart: Sequence[str]
    differences: Sequence[Difference]

    @property
    def drifted(self) -> list[Difference]:
        """The methods and prompts that drifted."""
        return [difference for difference in self.differences if difference.drift]


def pair_rows(mine: Rows, theirs: Rows) -> Pairing:
    """Find the pairs that two runs have: equal face, prompts, method, strength and options.

    Where several pairs of a run are equal in these, they are told apart by their mappers, and then
    by the order of their rows.
    """
    settings, faces = dict[Any, int](), dict[str, int]()
    keys = list[NDArray[np.int64]]()
    for rows in (mine, theirs):
        table = rows.settings[_SAME].astype(object)
        texts = table.where(table.notna(), None).itertuples(index=False, name=None)
        setting = np.array([settings.setdefault(text, len(settings)) for text in texts], np.int64)
        face = np.array([faces.setdefault(name, len(faces)) for name in rows.faces], np.int64)
        # There are fewer than 2^31 settings and faces.
        keys.append((setting[rows.setting] << 32) | face[rows.face])
    repeated = np.concatenate([*map(_repeated, keys)])
    if len(repeated):
        keys = _told_apart((mine, theirs), keys, repeated)
    _, one, other = np.intersect1d(keys[0], keys[1], return_indices=True)
    order = np.argsort(one)
    return Pairing(one[order].astype(np.int32), other[order].astype(np.int32))


def _alphas(rows: Rows, places: NDArray[np.integer]) -> Numbers:
    alphas: Numbers = rows.settings["alpha"].to_numpy(float)[rows.setting[places]]
    return alphas


def _repeated(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    found, counts = np.unique(keys, return_counts=True)
    return found[counts > 1]


def _told_apart(
    runs: Sequence[Rows], keys: Sequence[NDArray[np.int64]], repeated: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Keys of the rows of two runs of which no two are equal in one run."""
    mappers, parts = dict[str, int](), list[NDArray[np.int64]]()
    for rows, key in zip(runs, keys, strict=True):
        uris = rows.settings["mapper_uri"].fillna("")
        number = np.array([mappers.setdefault(uri, len(mappers)) for uri in uris], np.int64)
        mapper = np.where(np.isin(key, repeated), number[rows.setting], -1)
        order = np.lexsort((mapper, key))
        is_first = np.ones(len(key), bool)
        is_first[1:] = (np.diff(key[order]) != 0) | (np.diff(mapper[order]) != 0)
        place = np.arange(len(key))
        turn = np.empty_like(place)
        turn[order] = place - np.maximum.accumulate(np.where(is_first, place, 0))
        parts.append(np.stack([key, mapper, turn], axis=1))
    _, codes = np.unique(np.concatenate(parts), axis=0, return_inverse=True)
    return np.split(codes.ravel(), [len(parts[0])])


def compare_runs(
    mine: tuple[Rows, Evaluation],
    theirs: tuple[Rows, Evaluation],
    pairing: Pairing,
    name: str,
    url: str,
    assets: Sequence[str] = (),
) -> Comparison:
    """Compare two runs.

    Args:
        mine: This run.
        theirs: The other.
        pairing: The pairs that both have.
        name: Of the other run.
        url: Of the other run.
        assets: The kinds of assets in which they differ.
    """
    marks = [rows.settings for rows, _ in (mine, theirs)]
    columns = {role: f"{role}_fingerprint" for role in FINGERPRINTS}
    others = [
        role
        for role, column in columns.items()
        if {*marks[0][column].dropna()} != {*marks[1][column].dropna()}
    ]
    paired = {(d.method, d.target_prompt): d for d in _paired(mine, theirs[0], pairing)}
    unpaired = {(d.method, d.target_prompt): d for d in _unpaired(mine[1], theirs[1])}
    keys = [(group.method, group.target_prompt) for group in mine[1].by_prompt]
    found = [paired.get(key) or unpaired.get(key) for key in keys]
    apart = [] if len(pairing.mine) else _apart(mine[0], theirs[0])
    return Comparison(
        name, url, [*others, *assets], len(pairing.mine), apart, [d for d in found if d]
    )


def _apart(mine: Rows, theirs: Rows) -> list[str]:
    """Name that of which two runs have nothing in common; all where several differ in turn."""
    found = [] if {*mine.faces} & {*theirs.faces} else ["image_id"]
    methods = {*mine.settings["method"]} & {*theirs.settings["method"]}
    found += [] if methods else ["method"]
    for name in _SAME:
        for method in methods:
            tables = (rows.settings[rows.settings["method"] == method] for rows in (mine, theirs))
            values, others = ({*table[name].astype(object).fillna("")} for table in tables)
            if not values & others and name not in found:
                found.append(name)
    return found or ["image_id", *_SAME]


def _paired(mine: tuple[Rows, Evaluation], theirs: Rows, pairing: Pairing) -> Iterator[Difference]:
    rows, evaluation = mine
    if not len(pairing.mine):
        return
    alphas = _alphas(rows, pairing.mine)
    failed = [(~r.ok[p]).astype(float) for r, p in ((rows, pairing.mine), (theirs, pairing.theirs))]
    groups = list[tuple[str, str, Places]]()
    for group in evaluation.by_prompt:
        same = rows.of(method=group.method, target_prompt=group.target_prompt)
        own = np.flatnonzero(same.to_numpy(bool)[rows.setting[pairing.mine]]).astype(np.int32)
        if len(own):
            groups.append((group.method, group.target_prompt, own))
    scores = list[dict[str, Estimate]]({} for _ in groups)
    for name in DRIFT_TOLERANCES:
        values: Numbers = (
            failed[0] - failed[1]
            if name == "failed"
            else rows.column(name)[pairing.mine] - theirs.column(name)[pairing.theirs]
        )
        if name == "directional_edit":
            # Below 0 an edit is to go the other way.
            values = values * np.sign(alphas)
        if name != "failed":
            # Nothing was edited.
            values[alphas == 0] = np.nan
        for (_, _, own), found in zip(groups, scores, strict=True):
            faces = rows.face[pairing.mine[own]]
            # Of the difference of two.
            low, high = limits_of(name)
            found[name] = estimate_mean(
                values[own],
                faces,
                evaluation.criteria,
                limits=(low - high, high - low),
                share=name in (*SHARES, "failed"),
            )
    for (method, prompt, places), found in zip(groups, scores, strict=True):
        yield Difference(method, prompt, True, len(places), found)


def _unpaired(mine: Evaluation, theirs: Evaluation) -> Iterator[Difference]:
    others = {(group.method, group.target_prompt): group for group in theirs.by_prompt}
    for group in mine.by_prompt:
        other = others.get((group.method, group.target_prompt))
        if other:
            scores = {
                name: difference_of_means(group.scores[name], other.scores[name])
                for name in DRIFT_TOLERANCES
                if name != "failed"
            }
            scores["failed"] = difference_of_means(group.failures, other.failures)
            yield Difference(group.method, group.target_prompt, False, group.pairs, scores)


def difference_of_means(mine: Estimate, theirs: Estimate) -> Estimate:
    """Subtract means of different faces, with the interval of Zou and Donner (2008)."""
    if mine.mean is None or theirs.mean is None:
        return Estimate()
    mean = mine.mean - theirs.mean
    count, faces = min(mine.count, theirs.count), min(mine.faces, theirs.faces)
    ends = (mine.low, mine.high, theirs.low, theirs.high)
    if any(end is None for end in ends):
        return Estimate(count, faces, mean)
    low, high, their_low, their_high = (float(end or 0) for end in ends)
    below = np.hypot(mine.mean - low, their_high - theirs.mean)
    above = np.hypot(high - mine.mean, theirs.mean - their_low)
    return Estimate(count, faces, mean, float(mean - below), float(mean + above))


def telling_pairs(mine: Rows, theirs: Rows, pairing: Pairing) -> dict[str, int]:
    """Choose pairs to look at: where the rank rose and fell most, and the median change.

    A pair without an edit, or whose rank only rounding changed, is none.

    Returns:
        Numbers of the pairing by why; of what they are chosen by see `tasks.report.examples.RANK`.
    """
    change = rank_pairs(mine)[pairing.mine] - rank_pairs(theirs)[pairing.theirs]
    change[_alphas(mine, pairing.mine) == 0] = np.nan
    change[np.abs(change) < ROUNDING] = np.nan
    order = np.argsort(change, kind="stable")
    order = order[: int((~np.isnan(change)).sum())]
    if not len(order):
        return {}
    wanted = {"median change": int(order[(len(order) - 1) // 2])}
    if change[order[-1]] > 0:
        wanted["rose most"] = int(order[-1])
    if change[order[0]] < 0:
        wanted["fell most"] = int(order[0])
    chosen = dict[int, str]()
    for why, number in wanted.items():
        chosen.setdefault(number, why)
    return {why: number for number, why in chosen.items()}


def drift_sentences(comparison: Comparison) -> list[str]:
    """Say each drift in words."""
    return [
        f"{difference.method}, {shorten(difference.target_prompt, 80)!r}: {name.replace('_', ' ')} "
        f"{difference.change(name)} by {abs(score.mean or 0):.3f} "
        f"({score.low:+.3f} to {score.high:+.3f}) against the run {comparison.name}"
        for difference in comparison.drifted
        for name in difference.drift
        for score in [difference.scores[name]]
    ]


def drift_rule(criteria: Criteria) -> str:
    """Say what counts as drift."""
    limits = ", ".join(
        f"{name.replace('_', ' ')} {least:g}" for name, least in DRIFT_TOLERANCES.items()
    )
    return (
        f"a mean difference whose {criteria.confidence:.0%} interval is all on one side of 0 and "
        f"that is at least: {limits}"
    )
