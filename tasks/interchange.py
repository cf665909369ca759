"""Latents and directions from and for other tools of the field."""

import io
import math
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from styleclip_ops.checkpoint_files import read_data
from styleclip_ops.direction import covered_channels
from styleclip_ops.errors import ShapeError
from tasks.directions import DirectionStore, DirectionStoreError, RelevanceConfig, direction_folder
from tasks.latents import FACE_UNITS, LatentStore, LatentStoreError, latent_folder
from tasks.models import open_models
from tasks.photos.listing_table import IMAGE_ID_RULE, is_image_id
from tasks.places import IMPORTS
from tasks.store.folders import Folder, read_url, sha256, split_member, split_url
from tasks.store.redaction import redact

# How far the norm of a direction may be from 1; files of half precision are that far.
_UNIT = 0.01

# Where the length of the header ends in an .npy file of version 1.0, and the header begins.
_LENGTH_ENDS = 10
# What the copies in a workspace hold.
_COPY = np.dtype("<f4")


@dataclass(frozen=True)
class Import:
    """Latents that another tool made.

    Attributes:
        w_plus: [N, num_ws, w_dim] float32.
        image_ids: [N] their names, all different.
    """

    w_plus: NDArray[np.float32]
    image_ids: Sequence[str]


def read_import(source: str, names: str, models: str, device: str) -> Import:
    """Read latents that another tool made.

    Args:
        source: `latents.pt` (a tensor) or `w_plus.npy`, [N, num_ws, w_dim].
        names: URL of a text file with N image ids, one a line; made of the file's name and the row
            where empty.
        models: URL of the bundle.
        device: See `tasks.models.open_models`.

    Raises:
        LatentStoreError: The file holds no latents of this generator, or the names are another
            number, no image ids, or not all different.
    """
    networks = open_models(models, device)
    w_plus = _read_latents(source, (networks.generator.num_ws, networks.generator.config.w_dim))
    _, name = split_url(source)
    if names:
        image_ids = _read_names(names)
        if len(image_ids) != len(w_plus):
            raise LatentStoreError(
                f"{names}: got {len(image_ids)} names, expected {len(w_plus)}, one a line for each "
                f"latent of {name}"
            )
        return Import(w_plus, image_ids)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", _stem(name)).strip("-._")[:100] or "latents"
    return Import(w_plus, [f"{stem}-{i:05d}" for i in range(len(w_plus))])


def plan_import(
    workspace: str, latents: Import, models: str, device: str, shard_size: int
) -> list[int]:
    """Take in latents that another tool made, and plan their rows of the W+ store.

    Args:
        workspace: URL of the workspace.
        latents: What is taken in.
        models: URL of the bundle.
        device: See `tasks.models.open_models`.
        shard_size: See `LatentStore.create`.

    Returns:
        Shards to write with `tasks.inversion.invert_faces_shard`.

    Raises:
        LatentStoreError: The names are those of other latents.
    """
    root, networks = Folder(workspace), open_models(models, device)
    sink = io.BytesIO()
    np.save(sink, np.ascontiguousarray(latents.w_plus))
    copy = f"{IMPORTS}/{sha256(sink.getvalue())[:16]}.npy"
    is_new = not root.exists(copy)
    root.write(copy, sink.getvalue())
    store = LatentStore(latent_folder(root, networks))
    store.create(networks, shard_size)
    ids = [*latents.image_ids]
    uris = [f"{root.url_of(copy)}#{row}" for row in range(len(ids))]
    units = {"image_id": ids, "crop_uri": [""] * len(ids), "w_plus_uri": uris}
    try:
        return store.plan(pa.table(units, FACE_UNITS))
    except LatentStoreError:
        if is_new:
            root.remove(copy)
        raise


def names_beside(url: str) -> str:
    """Return where the names of an array of latents are, if anywhere."""
    folder, name = split_url(url)
    return folder.url_of(f"{_stem(name)}.txt")


def write_latents(workspace: str, destination: str, models: str, device: str) -> int:
    """Write all latents as `.npy` or `.pt` [N, num_ws, w_dim], their names beside as `.txt`.

    Returns:
        How many.

    Raises:
        LatentStoreError: There are none, or the destination has another suffix.
    """
    folder, name = split_url(destination)
    if not name.endswith((".npy", ".pt")):
        raise LatentStoreError(f"destination: got {name}, expected a name ending in .npy or .pt")
    store = LatentStore(latent_folder(Folder(workspace), open_models(models, device)))
    found = [
        (image_id, row)
        for table in store.ledger.results()
        for image_id, row, status in zip(
            *(table[name].to_pylist() for name in ("image_id", "row", "status")), strict=True
        )
        if status == "ok"
    ]
    if not found:
        raise LatentStoreError(f"{store.folder.url}: got no latents, expected some to export")
    w_plus = store.read([row for _, row in found]).w_plus
    sink = io.BytesIO()
    if name.endswith(".npy"):
        np.save(sink, w_plus)
    else:
        torch.save(torch.from_numpy(w_plus), sink)
    folder.write(name, sink.getvalue())
    names, listed = split_url(names_beside(destination))
    names.write(listed, "\n".join(image_id for image_id, _ in found).encode())
    return len(found)


@dataclass(frozen=True)
class PublishedDirections:
    """Channel CLIP directions that another tool measured.

    Attributes:
        source: The file that they are from.
        directions: [C, E] float32 of all editable channels, unit norm or zero.
        rows: How many of them the file had.
    """

    source: str
    directions: Tensor
    rows: int


def read_directions(source: str, models: str, device: str) -> PublishedDirections:
    """Read channel CLIP directions that another tool measured.

    Args:
        source: The published `fs3.npy`, [C, E] with rows of unit norm: of all editable channels in
            synthesis order, or of those of the first layers; the others then move nothing.
        models: URL of the bundle that they were measured on.
        device: See `tasks.models.open_models`.

    Raises:
        DirectionStoreError: The file holds no directions of this generator and this CLIP.
    """
    networks = open_models(models, device)
    layout, width = networks.generator.layout, networks.clip.embedding_dim
    expected = f"expected floats [C, {width}], rows of unit norm, for this generator and CLIP"
    content = read_url(source)
    try:
        array = _npy(content)
        if array.dtype.kind != "f" or array.ndim != 2 or array.shape[1] != width:
            raise ValueError(f"got {array.dtype} of shape {list(array.shape)}")
        covered_channels(layout, len(array))
    except (ValueError, EOFError, ShapeError) as error:
        reason = str(error).partition("\n")[0]
        raise DirectionStoreError(f"{source}: {reason}; {expected}") from error
    directions = torch.zeros(len(layout.editable_channels), width)
    directions[: len(array)] = torch.from_numpy(array.astype(np.float32))
    norm = directions.norm(dim=1)
    bad = (~((norm - 1).abs() < _UNIT) & (norm != 0)).nonzero()
    if len(bad):
        row = int(bad[0])
        raise DirectionStoreError(
            f"{source}: got {len(bad)} rows that have not norm 1, the first of them row {row} with "
            f"{norm[row]:.3g}; {expected}; divide each row by its norm"
        )
    return PublishedDirections(source, directions, len(array))


def keep_directions(
    workspace: str,
    published: PublishedDirections,
    models: str,
    device: str,
    config: RelevanceConfig,
) -> DirectionStore:
    """Make a direction store of channel CLIP directions that another tool measured.

    Args:
        workspace: URL of the workspace.
        published: What is taken in.
        models: URL of the bundle that they were measured on.
        device: See `tasks.models.open_models`.
        config: Of the statistics of S; its mode is `imported`.

    Raises:
        DirectionStoreError: Others were imported before.
    """
    networks = open_models(models, device)
    store = DirectionStore(direction_folder(Folder(workspace), networks, config))
    store.create(networks, config, None)
    (shard,) = store.ledger.plans()
    digest = sha256(published.directions.numpy().tobytes())
    if not store.ledger.is_committed(shard):
        facts = {"source": redact(published.source), "rows": published.rows}
        store.commit(shard, published.directions, facts=facts)
    if store.ledger.read_commit(shard).facts["sha256"] != digest:
        raise DirectionStoreError(
            f"{published.source}: got other directions than were imported before, expected the "
            f"same; remove {store.folder.url} to take these, or give another workspace"
        )
    return store


def write_directions(store: str, destination: str) -> tuple[int, int]:
    """Write channel CLIP directions as the published `fs3.npy`.

    Returns:
        Its shape [C, E].
    """
    directions = DirectionStore(Folder(store)).read().channel_clip_directions
    sink = io.BytesIO()
    np.save(sink, directions.numpy())
    folder, name = split_url(destination)
    folder.write(name, sink.getvalue())
    return directions.shape[0], directions.shape[1]


def read_imported(uri: str) -> NDArray[np.float32]:
    """Return one imported latent [num_ws, w_dim] from `FILE.npy#ROW`."""
    place, row = split_member(uri, ".npy")
    shape, begin = _shape_of_copy(place)
    if not 0 <= int(row) < shape[0]:
        raise IndexError(f"got row {row} of {shape[0]}")
    # Not the whole file, which a shard of thousands has in common.
    folder, name = split_url(place)
    size = math.prod(shape[1:]) * _COPY.itemsize
    first = begin + int(row) * size
    row_bytes = folder.read_range(name, first, first + size)
    found: NDArray[np.float32] = np.frombuffer(row_bytes, _COPY).reshape(shape[1:])
    return found


@lru_cache(maxsize=16)
def _shape_of_copy(url: str) -> tuple[tuple[int, ...], int]:
    """Read the shape of a copy, whose name tells its content, and where its numbers begin."""
    folder, name = split_url(url)
    length = int.from_bytes(folder.read_range(name, 8, _LENGTH_ENDS), "little")
    start = io.BytesIO(folder.read_range(name, 0, _LENGTH_ENDS + length))
    np.lib.format.read_magic(start)
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(start)
    if by_columns or dtype != _COPY:
        raise ValueError(f"got {dtype} values of shape {shape}, expected float32 by rows")
    return shape, start.tell()


def _read_latents(source: str, wanted: tuple[int, int]) -> NDArray[np.float32]:
    """Latents [N, num_ws, w_dim] from a file of a stranger."""
    content = read_url(source)
    expected = f"expected floats [N, {wanted[0]}, {wanted[1]}] for this generator"
    try:
        array = _npy(content) if source.endswith((".npy", ".npz")) else _tensor(content)
    except (ValueError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise LatentStoreError(f"{source}: {reason}; {expected}") from error
    if array.dtype.kind != "f" or array.ndim != 3 or array.shape[1:] != wanted or not len(array):
        raise LatentStoreError(
            f"{source}: got {array.dtype} latents of shape {list(array.shape)}, {expected}"
        )
    # What is too large for float32 becomes infinite, which is a status of its row.
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _npy(content: bytes) -> NDArray[Any]:
    """The array of a file; its header is believed only as far as there are bytes."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        # No pickle, and no room before the size is known to be true.
        found = np.load(file.name, mmap_mode="r", allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise ValueError("got an archive of arrays (.npz); numpy.save writes one as .npy")
        return np.array(found)


def _tensor(content: bytes) -> NDArray[Any]:
    data = read_data(io.BytesIO(content))
    is_dense = (
        isinstance(data, torch.Tensor)
        and data.layout == torch.strided
        and data.device.type == "cpu"
        and not data.is_nested
    )
    if not is_dense or not data.is_floating_point():
        raise ValueError(f"got {type(data).__name__}, expected a dense tensor of floats")
    if data.numel() * data.element_size() > data.untyped_storage().nbytes():
        raise ValueError(f"got a tensor of shape {list(data.shape)} that repeats its values")
    array: NDArray[Any] = data.detach().double().numpy()
    return array


def _read_names(url: str) -> list[str]:
    """Image ids, one a line."""
    try:
        names = [line.strip() for line in read_url(url).decode("utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise LatentStoreError(f"{url}: got {error}, expected names in UTF-8") from error
    lines = dict[str, int]()
    for line, name in enumerate(names, 1):
        if not is_image_id(name):
            raise LatentStoreError(
                f"{url}, line {line}: got {name[:200]!r}, expected in each line {IMAGE_ID_RULE}; "
                "rename it"
            )
        if lines.setdefault(name, line) != line:
            raise LatentStoreError(
                f"{url}, line {line}: got {name}, as in line {lines[name]} already, expected each "
                "once; rename one"
            )
    return names


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0]
