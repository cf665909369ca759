"""Crops: faces cut out of photographs, and cut out again where a crop is lost or was changed."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from styleclip_ops.alignment import FloatArray, cut_quad
from styleclip_ops.errors import ConfigError
from tasks.outputs import altered_files
from tasks.photos.decoding import PhotoError, fetch_photo, read_photo, to_srgb
from tasks.places import face_file
from tasks.provenance import CODE_VERSION, png_bytes
from tasks.store.folders import Folder, sha256, split_url
from tasks.store.ledger import Row
from tasks.store.redaction import bare_address

# Status of a crop that cannot be made again from what is there; no ledger has it.
NOT_MENDED = "not mended"
# Of the photograph around a quad, in its sides: more than `cut_quad` looks at.
_MARGIN = 0.25


def crop_file(photo: Image.Image, row: Mapping[str, Any], size: int) -> bytes:
    """Return the PNG of a face with its provenance.

    Args:
        photo: RGB, upright.
        row: `image_id`, `source_sha256` and `quad` of the face.
        size: Side of the crop in pixels.

    Raises:
        ConfigError: See `cut_quad`.
    """
    quad = np.reshape(row["quad"], (4, 2))
    facts = {"kind": "crop", "code_version": CODE_VERSION, "quad": quad.tolist()}
    facts |= {name: row[name] for name in ("image_id", "source_sha256")}
    return png_bytes(cut_face(photo, quad, size), facts)


def cut_face(photo: Image.Image, quad: FloatArray, size: int) -> Image.Image:
    """Align a face as `cut_quad` does, without a look at the rest of a large photograph.

    Args:
        photo: RGB, upright.
        quad: [4, 2] corners in its pixels, see `ffhq_quad`.
        size: Side of the crop in pixels.

    Returns:
        RGB image in sRGB without metadata.

    Raises:
        ConfigError: See `cut_quad`.
    """
    side = float(np.hypot(*(quad[3] - quad[0])))
    # `cut_quad` first reduces by this factor: whole steps keep the pixels that it averages.
    step = max(int(side / size / 2), 1)
    margin = _MARGIN * side
    left, top = np.maximum(np.floor((quad.min(axis=0) - margin) / step) * step, 0)
    far = np.ceil((quad.max(axis=0) + margin) / step) * step
    right, bottom = np.minimum(far, photo.size)
    if left >= right or top >= bottom:
        raise ConfigError("quad: got one outside the photograph, expected a face inside")
    surroundings = photo.crop((int(left), int(top), int(right), int(bottom)))
    return to_srgb(cut_quad(surroundings, quad - (left, top), size))


def mend_crops(
    faces: Sequence[Row], photos: Sequence[Row], workspace: Folder, size: int, pool: Executor
) -> list[Row]:
    """Cut crops again that are not there as they were committed.

    Each is of the same quad of the same photograph, so that no other face takes its place.

    Args:
        faces: Rows of faces.
        photos: `source_uri` of their photographs, where they are to be read from.
        workspace: Where the crops are.
        size: Side of the crops in pixels.
        pool: Does one photograph at a time with each of its threads.

    Returns:
        The rows of those crops, with the digest of the file that is there now; NOT_MENDED and an
        error are in those whose photograph is gone or another.
    """
    lost = _damaged(faces, photos, workspace)
    mended = pool.map(partial(_mend, size), lost, lost.values())
    return [row for rows in mended for row in rows]


def crops_not_mended(
    faces: Sequence[Row], photos: Sequence[Row], workspace: Folder
) -> Iterator[tuple[str, str, str]]:
    """Yield face, photograph and reason of damaged crops that `mend_crops` leaves as they are.

    Args:
        faces: See `mend_crops`.
        photos: See `mend_crops`.
        workspace: See `mend_crops`.
    """
    for of, crops in _damaged(faces, photos, workspace).items():
        try:
            _as_it_was(*of)
        except PhotoError as error:
            for row in crops.values():
                yield row["image_id"], row["source_uri"], str(error)


def _damaged(
    faces: Sequence[Row], photos: Sequence[Row], workspace: Folder
) -> dict[tuple[str, str], dict[str, Row]]:
    """Damaged crops by their URLs, by where the photograph of each is and its sha256."""
    sources = {bare_address(photo["source_uri"]): photo["source_uri"] for photo in photos}
    usable = {face_file(row["crop_uri"], workspace): row for row in faces if row["status"] == "ok"}
    damaged = dict[tuple[str, str], dict[str, Row]]()
    for uri in altered_files({uri: row["crop_sha256"] for uri, row in usable.items()}):
        row = usable[uri]
        photo = sources[bare_address(row["source_uri"])], row["source_sha256"]
        damaged.setdefault(photo, {})[uri] = row
    return damaged


def _as_it_was(source: str, digest: str) -> Image.Image:
    """Read a photograph.

    Raises:
        PhotoError: It cannot be read, or is another than was aligned.
    """
    content = fetch_photo(source)
    if sha256(content) != digest:
        raise PhotoError("unreadable", "got another photograph than was aligned")
    return read_photo(content)


def _mend(size: int, of: tuple[str, str], crops: Mapping[str, Row]) -> list[Row]:
    """Cut crops again, by their URLs, of a photograph: where it is, and its sha256."""
    try:
        photo = _as_it_was(*of)
    except PhotoError as error:
        return [row | {"status": NOT_MENDED, "error": str(error)} for row in crops.values()]
    return [row | {"crop_sha256": _cut_again(uri, photo, row, size)} for uri, row in crops.items()]


def _cut_again(uri: str, photo: Image.Image, row: Row, size: int) -> str:
    crop = crop_file(photo, row, size)
    folder, name = split_url(uri)
    folder.write(name, crop)
    return sha256(crop)
