"""Which pairs a report shows first: the typical, the best and the worst of a method and prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tasks.report.evaluation import Evaluation, Group, Numbers, may_have_it
from tasks.report.rows import Rows

Kind = Literal["typical", "best", "worst"]
_SAME = [
    *("target_prompt", "method", "neutral_prompt", "beta", "num_channels", "options"),
    "mapper_uri",
]

# Ranks this near to each other are equal but for rounding.
ROUNDING = 1e-6
RANK = "gain times identity kept (gain x identity_edit, of which less than 0 counts as 0)"


@dataclass(frozen=True)
class Example:
    """A pair to show.

    Attributes:
        kind: Why it is shown.
        pair: Place of its row.
        rank: What it was chosen by, see `RANK`.
        strip: Places of the edits of the same face with the same settings, by ascending alpha.
    """

    kind: Kind
    pair: int
    rank: float
    strip: Sequence[int]


# By method and target prompt.
Examples = Mapping[tuple[str, str], Sequence[Example]]


def find_examples(rows: Rows, evaluation: Evaluation) -> Examples:
    """Choose examples at the best strength of every method and prompt.

    These are the pair with the median rank, the highest and the lowest, each once; fewer if there
    are fewer pairs with a rank, and only one if all have the same. Where others are left, no face
    is taken whose inversion matches the prompt as well as the median edit: it may show already what
    is asked for.
    """
    ranks = rank_pairs(rows)
    before, after = rows.column("clip_cosine_inversion"), rows.column("clip_cosine")
    keys = [(group.method, group.target_prompt) for group in evaluation.by_prompt]
    best = {key: evaluation.best_strength(*key) for key in keys}
    return {
        key: _choose(rows, ranks, before, after, group) if group else []
        for key, group in best.items()
    }


def rank_pairs(rows: Rows) -> Numbers:
    """Return the rank of every pair, see RANK: [N], NaN where scores are missing."""
    # A loss is worse than no gain, however well it keeps the identity.
    ranks: Numbers = rows.column("gain") * np.maximum(rows.column("identity_edit"), 0)
    return ranks


def _choose(
    rows: Rows, ranks: Numbers, before: Numbers, after: Numbers, best: Group
) -> list[Example]:
    alike = rows.of(method=best.method, target_prompt=best.target_prompt, alpha=best.alpha)
    places = rows.find(alike)
    places = places[~np.isnan(ranks[places])]
    lacking = places[~may_have_it(before[places], after[places])]
    places = lacking if len(lacking) else places
    order = places[np.argsort(ranks[places], kind="stable")]
    if not len(order):
        return []
    wanted: dict[Kind, int] = {
        "typical": order[(len(order) - 1) // 2],
        "best": order[-1],
        "worst": order[0],
    }
    if ranks[order[-1]] - ranks[order[0]] < ROUNDING:
        wanted = {"typical": wanted["typical"]}
    chosen = dict[int, Kind]()
    for kind, place in wanted.items():
        chosen.setdefault(int(place), kind)
    return [
        Example(kind, place, float(ranks[place]), _strip(rows, place))
        for place, kind in chosen.items()
    ]


def _strip(rows: Rows, place: int) -> list[int]:
    own = rows.settings.loc[rows.setting[place], _SAME]
    same = rows.find(rows.of(**own.to_dict()))
    same = same[(rows.face[same] == rows.face[place]) & rows.ok[same]]
    alphas = rows.settings["alpha"].to_numpy(float)[rows.setting[same]]
    return [int(one) for one in same[np.argsort(alphas, kind="stable")]]
