"""Rendering committed edits again, to see whether stored latents and assets still give them."""

import io
from collections.abc import Iterator, Mapping
from random import Random

import numpy as np
from PIL import Image

from tasks.checks.findings import Finding
from tasks.edits import EDIT_BATCH, Editor
from tasks.models import Models, describe_device
from tasks.outputs import read_images
from tasks.runs import RunSettings
from tasks.store.folders import sha256
from tasks.store.ledger import Row

# Grey levels of 255, mean over a picture, by which edits may differ that were made on another
# device. Its sums round otherwise; the steps of an optimization amplify that.
PIXEL_TOLERANCES: Mapping[str, float] = {
    "global": 1.0,
    "mapper": 1.0,
    "optimize": 8.0,
}


class EvenDraw:
    """Draw edits evenly from a stream, as many of each method.

    Args:
        size: Edits in all.
        chance: Which.
    """

    def __init__(self, size: int, chance: Random) -> None:
        self._size, self._chance = size, chance
        self._seen: dict[str, int] = {}
        self._drawn: dict[str, list[tuple[int, str]]] = {}

    def see(self, method: str, shard: int, pair_id: str) -> None:
        """Take an edit into the draw."""
        drawn = self._drawn.setdefault(method, [])
        count = self._seen[method] = self._seen.get(method, 0) + 1
        if len(drawn) < self._size:
            drawn.append((shard, pair_id))
        elif (place := self._chance.randrange(count)) < self._size:
            drawn[place] = (shard, pair_id)

    def by_shard(self) -> dict[int, set[str]]:
        """Return the drawn pair ids by shard."""
        turns = [
            (turn, method, pair)
            for method, drawn in self._drawn.items()
            for turn, pair in enumerate(drawn)
        ]
        found: dict[int, set[str]] = {}
        for _, _, (shard, pair_id) in sorted(turns)[: self._size]:
            found.setdefault(shard, set()).add(pair_id)
        return dict(sorted(found.items()))


def render_again(
    rows: list[Row], settings: RunSettings, networks: Models, device: object
) -> Iterator[Finding | None]:
    """Render edits that one commit made again; on the same device they have the same pixels.

    Args:
        rows: The edits, with the URIs where their images are now.
        settings: Of the run, in the arithmetic of the commit.
        networks: Its networks.
        device: What the commit says of the device that made them.

    Yields:
        What is wrong with an edit, None where nothing is.
    """
    editor, exact = Editor(settings, networks), device == describe_device(networks.device)
    made = {row["pair_id"]: row for row in rows}
    begun, seen = [dict(row) for row in rows], set[str]()
    for batch in editor.batches(begun, EDIT_BATCH):
        for row in batch.rows:
            row |= {"status": "failed", "error": None}
        pictures = {edited.row["pair_id"]: edited.picture for edited in editor.edit(batch)}
        for row in batch.rows:
            seen.add(row["pair_id"])
            yield _compare(made[row["pair_id"]], row, pictures.get(row["pair_id"]), exact)
    for row in begun:
        if row["pair_id"] not in seen:
            row |= {"error": "its latent was lost or changed since"}
            yield _compare(made[row["pair_id"]], row, None, exact)


def _compare(before: Row, row: Row, picture: Image.Image | None, exact: bool) -> Finding | None:
    what = f"edit {before['pair_id']} ({before['method']}) of {before['image_id']}"
    if picture is None:
        got = f"status {row['status']}: {row['error']}"
        return Finding(what, got, "an image as before", "see the other findings for the cause")
    ((_, content),) = read_images([before["output_uri"]])
    if content is None or sha256(content) != before["output_sha256"]:
        # The image itself is a finding already.
        return None
    with Image.open(io.BytesIO(content)) as image:
        stored = np.asarray(image.convert("RGB"), np.int16)
    if stored.shape != np.asarray(picture).shape:
        return Finding(what, f"{picture.size} pixels", f"{stored.shape[:2]}", "see the generator")
    difference = np.abs(stored - np.asarray(picture, np.int16))
    largest, mean = int(difference.max()), float(difference.mean())
    allowed = 0.0 if exact else PIXEL_TOLERANCES[before["method"]]
    if mean <= allowed:
        return None
    limit = "the same pixels" if exact else f"at most {allowed:g} on average on another device"
    return Finding(
        what,
        f"pixels that differ by {mean:.2f} grey levels on average, {largest} at most",
        limit,
        "the latent, an asset or the code changed since; restore them, or edit again",
    )
