"""The rows of a gallery as compact columns that a page's script reads."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tasks.report.pictures import Picture, Pictures
from tasks.report.scoring import SCORES

_TEXTS = ("target_prompt", "neutral_prompt", "method", "status", "error", "options")
_NUMBERS = ("alpha", "beta", "num_channels", "seconds")
_DIGITS = 4


@dataclass(frozen=True)
class OtherGallery:
    """The pairs of another run that go beside those of this one.

    Attributes:
        name: Of the other run.
        pictures: Its edited images by the place of this run's row.
        changes: Directional similarity of this run's pair minus the other's, by the same.
    """

    name: str
    pictures: Mapping[int, Picture]
    changes: Mapping[int, float]


def gallery_columns(
    rows: pd.DataFrame, pictures: Pictures, others: Sequence[OtherGallery] = ()
) -> dict[str, Any]:
    """Return what a page needs to filter, sort and show rows.

    Args:
        rows: Those to show, of `Rows.table`.
        pictures: Theirs.
        others: Other runs to show beside.

    Returns:
        Values for JSON: `texts` with the different values of each text column, `rows` with columns
        of numbers and of places among those texts, `faces` and `edits` with pictures as
        [thumbnail, original or null, side in pixels], null where missing; `others` with the name
        and the pictures of other runs.
    """
    texts, columns = dict[str, list[str]](), dict[str, list[Any]]()
    for column in _TEXTS:
        texts[column], columns[column] = _encoded(rows[column].fillna(""))
    ids, columns["face"] = _encoded(rows["image_id"])
    changes = {
        f"change since {other.name}": pd.Series(other.changes, dtype=float).reindex(rows.index)
        for other in others
    }
    rows = rows.assign(**changes)
    scores = [name for name in (*SCORES, *changes) if rows[name].notna().any()]
    for column in (*_NUMBERS, *scores):
        columns[column] = _rounded(rows[column])
    return {
        "texts": texts,
        "scores": scores,
        "rows": columns | {"pair_id": rows["pair_id"].to_list()},
        "faces": [
            [name, _values(pictures.sources.get(name)), _values(pictures.inversions.get(name))]
            for name in ids
        ],
        "edits": [_values(pictures.edits.get(index)) for index in rows.index],
        "others": [
            {
                "name": other.name,
                "edits": [_values(other.pictures.get(index)) for index in rows.index],
            }
            for other in others
        ],
    }


def _encoded(column: Iterable[str]) -> tuple[list[str], list[int]]:
    """The different values in the order they come, and the place of each value among them."""
    places: dict[str, int] = {}
    encoded = [places.setdefault(value, len(places)) for value in column]
    return [*places], encoded


def _rounded(column: pd.Series) -> list[float | None]:
    numbers = column.astype(float)
    return [round(n, _DIGITS) if np.isfinite(n) else None for n in numbers.tolist()]


def _values(picture: Picture | None) -> list[Any] | None:
    return [picture.thumb, picture.full, picture.side] if picture else None
