"""Which pairs a report shows first: the typical, the best and the worst of a method and prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from tasks.evaluation import Group

Kind = Literal["typical", "best", "worst"]
_SAME = ["image_id", "target_prompt", "method", "neutral_prompt", "beta", "num_channels", "options"]

RANK = "directional similarity times identity kept (directional_edit x identity_edit)"


@dataclass(frozen=True)
class Example:
    """A pair to show.

    Attributes:
        kind: Why it is shown.
        pair: Index of its row.
        rank: What it was chosen by, see `RANK`.
        strip: Indices of the edits of the same face with the same settings, by ascending alpha.
    """

    kind: Kind
    pair: int
    rank: float
    strip: Sequence[int]


def choose_examples(rows: pd.DataFrame, best: Group) -> list[Example]:
    """Choose from the pairs of one strength.

    Args:
        rows: Of `score_rows`.
        best: The method, prompt and strength.

    Returns:
        The pair with the median rank, the highest and the lowest, each once; fewer if there are
        fewer pairs with a rank.
    """
    alike = (rows["method"] == best.method) & (rows["target_prompt"] == best.target_prompt)
    alike &= rows["status"] == "ok"
    own = rows.loc[alike & (rows["alpha"] == best.alpha), ["directional_edit", "identity_edit"]]
    # A negative direction is worse than none, however well it keeps the identity.
    rank = own["directional_edit"] * own["identity_edit"].clip(lower=0)
    order = rank.dropna().sort_values(kind="stable").index
    if order.empty:
        return []
    places = {"typical": order[(len(order) - 1) // 2], "best": order[-1], "worst": order[0]}
    chosen = dict[int, Kind]()
    for kind, place in places.items():
        chosen.setdefault(int(place), kind)  # type: ignore[arg-type]
    return [
        Example(kind, place, float(rank[place]), _strip(rows, alike, place))
        for place, kind in chosen.items()
    ]


def _strip(rows: pd.DataFrame, alike: pd.Series, place: int) -> list[int]:
    same = alike.copy()
    for name in _SAME:
        own = rows.at[place, name]
        same &= rows[name].isna() if pd.isna(own) else rows[name] == own
    found = rows.loc[same, "alpha"].sort_values(kind="stable")
    return [int(index) for index in found.index]
