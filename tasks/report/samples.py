"""A table and a few pictures of a run, for people who watch it; a report says more."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from tasks.outputs import read_images
from tasks.places import RunPlaces
from tasks.provenance import PICTURE_ERRORS
from tasks.report.pictures import before_sources
from tasks.report.thumbnails import thumbnail_bytes
from tasks.runs import run_ledger, run_places
from tasks.store.folders import Folder

# Shards that are read at most: enough for a glance at a run of any size.
MOST_SHARDS = 200
_SIDE = 112
_KEYS = ["target_prompt", "method", "alpha", "num_channels"]
_SCORES = ["directional_edit", "identity_edit", "clip_cosine", "clip_cosine_inversion", "seconds"]


@dataclass(frozen=True)
class Sample:
    """An edit with its pictures.

    Attributes:
        row: Of the results.
        before: WebP of the unedited rendering; empty where it is not there.
        after: WebP of the edited image.
    """

    row: Mapping[str, Any]
    before: bytes
    after: bytes


@dataclass(frozen=True)
class Glance:
    """What a run looks like.

    Attributes:
        results: Rows, those that are ok, and mean scores, by prompt, method and strength.
        samples: Some edits.
        shards: That were read.
        of: Committed shards.
    """

    results: Sequence[Mapping[str, object]]
    samples: Sequence[Sample]
    shards: int
    of: int


def glance_at(run_url: str, count: int = 6) -> Glance:
    """Read a part of the results of a run, evenly drawn, all of them up to `MOST_SHARDS` shards.

    Args:
        run_url: Of its folder.
        count: Edits to show.
    """
    folder, random = Folder(run_url), np.random.default_rng(0)
    ledger, places = run_ledger(folder), run_places(folder)
    committed = ledger.committed()
    drawn = sorted(random.permutation(committed)[:MOST_SHARDS].tolist())
    each = math.ceil(count / max(len(drawn), 1))
    parts, chosen = list[pd.DataFrame](), list[dict[str, Any]]()
    for table in ledger.results(drawn):
        rows = table.to_pandas()
        parts.append(rows[[*_KEYS, "status", *_SCORES]])
        done = np.flatnonzero(rows["status"] == "ok")
        chosen += rows.iloc[random.permutation(done)[:each]].to_dict("records")
    rows = [chosen[place] for place in random.permutation(len(chosen))[:count]]
    return Glance(_by_prompt(parts), [*_samples(places, rows)], len(drawn), len(committed))


def _by_prompt(parts: Sequence[pd.DataFrame]) -> list[dict[str, object]]:
    if not parts:
        return []
    rows = pd.concat(parts, ignore_index=True)
    rows["gain"] = rows["clip_cosine"] - rows["clip_cosine_inversion"]
    groups = rows.groupby(_KEYS, dropna=False, sort=False)
    means = groups[["directional_edit", "identity_edit", "gain", "seconds"]].mean().round(3)
    counts = groups["status"].agg(rows="size", ok=lambda column: int((column == "ok").sum()))
    table = counts.join(means).reset_index().astype(object)
    records: list[dict[str, object]] = table.where(table.notna(), None).to_dict("records")
    return records


def _samples(places: RunPlaces, rows: Sequence[Mapping[str, Any]]) -> Iterator[Sample]:
    """Edits with their pictures, those whose image is there."""
    before = before_sources(places, [row["image_id"] for row in rows])
    uris = [
        (places.find_edit(row["output_uri"]) or "", before[row["image_id"]][1].uri) for row in rows
    ]
    files = dict(read_images({uri for pair in uris for uri in pair if uri}))
    for row, (after, inversion) in zip(rows, uris, strict=True):
        small = _small(files.get(after))
        if small:
            yield Sample(row, _small(files.get(inversion)), small)


def _small(content: bytes | None) -> bytes:
    """A small WebP of a picture; empty where there is none."""
    with suppress(*PICTURE_ERRORS), Image.open(io.BytesIO(content or b"")) as image:
        return thumbnail_bytes(image, _SIDE)
    return b""
