"""Inversion: aligned crops -> W+ latents, with the embeddings that every edit needs."""

import io
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from manifests.schemas import LATENTS
from styleclip_ops.lots import in_lots
from styleclip_ops.metrics import cosine_similarity
from styleclip_ops.pictures import images_to_tensor, tensor_to_images
from tasks.interchange import read_imported
from tasks.latents import FACE_UNITS, Latents, LatentStore, latent_folder
from tasks.models import Models, open_models
from tasks.outputs import altered_files, keep_picture
from tasks.photos.faces import crop_digests, faces_table
from tasks.places import INVERSIONS, face_file
from tasks.provenance import CODE_VERSION, PICTURE_ERRORS, png_bytes
from tasks.row_logs import log_failures
from tasks.store.folders import Folder, is_file, read_url, sha256, split_member
from tasks.store.ledger import LOOKED_AT, Ledger, Row

# Faces of a shard where nothing else is asked for.
INVERT_SHARD = 256
# Pictures that are embedded together: of one size, so that what is inverted again has the digest
# that it had.
_EMBEDDED = 8

_AGAIN = (
    "restore it, a crop also by `styleclip align` with --redo-damaged; then give `styleclip "
    "invert` with --retry-failed"
)


def plan_inversion(workspace: str, models: str, device: str, shard_size: int) -> list[int]:
    """Plan all aligned faces that have no latent yet.

    Args:
        workspace: URL of the workspace.
        models: URL of the bundle.
        device: See `tasks.models.open_models`.
        shard_size: Faces of a shard, see `LatentStore.create`.

    Returns:
        Shards to invert.

    Raises:
        LatentStoreError: An imported latent has the name of a face.
    """
    networks = open_models(models, device)
    store = LatentStore(latent_folder(Folder(workspace), networks))
    store.create(networks, shard_size)
    faces = faces_table(workspace)
    units = faces.filter(pc.equal(faces["status"], "ok")).select(["image_id", "crop_uri"])
    units = units.append_column("w_plus_uri", pa.nulls(len(units), pa.string())).cast(FACE_UNITS)
    return store.plan(units)


def shards_to_invert(
    ledger: Ledger,
    retry: Collection[str] = (),
    own: Callable[[Sequence[int]], Sequence[int]] = sorted,
) -> list[int]:
    """Return the planned shards that are not committed, or hold faces to invert again.

    Args:
        ledger: Of the latents.
        retry: See `invert_faces_shard`.
        own: Returns those of some shards that are looked at.
    """
    return ledger.to_do((lambda rows: bool(_named(rows, retry))) if retry else None, own)


def failed_latents(
    ledger: Ledger, shards: Sequence[int] | None = None
) -> Iterator[tuple[str, str]]:
    """Yield the image ids of faces that have no sound latent, and why.

    Args:
        ledger: Of the latents.
        shards: Where to look; everywhere where None. Of many, the first are looked at.
    """
    known = ledger.committed() if shards is None else shards
    for table in ledger.results({*known[:LOOKED_AT]}):
        failed = table.select(["image_id", "status", "error"])
        for row in failed.filter(pc.not_equal(table["status"], "ok")).to_pylist():
            yield row["image_id"], f"{row['status']}: {row['error']}"


def _named(rows: pa.Table, statuses: Collection[str]) -> dict[str, int]:
    """Image ids of the latents that have one of some statuses, with their rows in the store."""
    named = rows.filter(pc.is_in(rows["status"], pa.array([*statuses], pa.string())))
    return dict(zip(named["image_id"].to_pylist(), named["row"].to_pylist(), strict=True))


def invert_faces_shard(
    workspace: str,
    models: str,
    device: str,
    shard: int,
    batch_size: int,
    retry: Collection[str] = (),
    redo_damaged: bool = False,
) -> dict[str, int]:
    """Invert one shard and commit it.

    Args:
        workspace: URL of the workspace.
        models: URL of the bundle.
        device: See `tasks.models.open_models`.
        shard: Its number.
        batch_size: Faces that are read together; the networks take lots of their own.
        retry: Of a shard that is committed those faces are inverted again that have one of these
            statuses.
        redo_damaged: Of a shard that is committed those faces are inverted again whose latent is
            not as it was committed, or whose crop was cut again and came out otherwise. A picture
            that is neither the crop that was inverted nor the one that alignment committed is
            none. Pictures of inversions that are gone or damaged are drawn from the latents.

    Returns:
        Faces by status that this call inverted or mended; nothing where another process committed
        the shard.
    """
    root, networks = Folder(workspace), open_models(models, device)
    store = LatentStore(latent_folder(root, networks))
    before = store.ledger.read_commit(shard) if store.ledger.is_committed(shard) else None
    planned = store.ledger.units(shard).to_pylist()
    committed = store.ledger.rows(shard) if before else LATENTS.empty_table()
    mending = _Mending()
    if before:
        if redo_damaged:
            mending = _look_for_damage(root, store, planned, committed)
        numbers = _named(committed, retry) | dict(mending.invert)
    else:
        first = shard * store.shard_size
        numbers = {unit["image_id"]: first + place for place, unit in enumerate(planned)}
    units, rows = _begin(root, planned, numbers)
    kept = [row for row in committed.to_pylist() if row["image_id"] not in numbers]
    mended = {row["image_id"] for row in kept} & (mending.draw | mending.name)
    if before and not units and not mended:
        return {}
    right = _right_crops(root, committed) if before and units else {}
    # Other networks draw the same faces in another way.
    pictures = root / INVERSIONS / store.folder.name
    done, found = list[Row](), list[Latents]()
    for start in range(0, len(units), batch_size):
        batch = range(start, min(start + batch_size, len(units)))
        for chosen, latents in _invert_batch(batch, units, rows, networks, pictures, right):
            done += [rows[place] for place in chosen]
            found.append(latents)
    if not before and store.ledger.is_committed(shard):
        return {}
    for row, digest in zip(done, (d for part in found for d in part.digests()), strict=True):
        row["stored_sha256"] = digest
    # A shard is written as a whole, with what is sound in it already.
    stored = [row for row in kept if row["status"] == "ok"]
    latents = store.read_stored([row["row"] for row in stored])
    digests = zip(stored, latents.digests(), strict=True)
    if any(row["stored_sha256"] not in (None, digest) for row, digest in digests):
        # Damaged, or another writer is at work: rows are never committed over other numbers.
        return invert_faces_shard(workspace, models, device, shard, batch_size, retry, True)
    drawn = [place for place, row in enumerate(stored) if row["image_id"] in mending.draw]
    for start in range(0, len(drawn), batch_size):
        chosen = drawn[start : start + batch_size]
        w_plus = torch.from_numpy(latents.w_plus[chosen]).to(networks.device)
        _draw(w_plus, [stored[place] for place in chosen], networks, pictures)
    found.append(latents)
    places = [row["row"] % store.shard_size for row in (*done, *stored)]
    everyone = sorted([*kept, *rows], key=itemgetter("row"))
    write = partial(store.write, shard, _concatenate(found), places, everyone)
    table, lies = pa.Table.from_pylist(everyone, LATENTS), partial(store.digest, shard)
    commit = store.ledger.commit_stored(shard, table, write(), lies, write, after=before)
    if not store.ledger.wrote(commit):
        return {}
    log_failures(store.folder.url, shard, "image_id", rows)
    return dict(Counter(row["status"] for row in rows) + Counter(["ok"] * len(mended)))


@dataclass(frozen=True)
class _Mending:
    """What is to be made again of a committed shard, by the ids of faces.

    Attributes:
        invert: With their rows in the store: the latent is not as it was committed, or the crop is
            another.
        draw: The picture of the inversion is gone or damaged.
        name: The texts beside the numbers are not as they were committed.
    """

    invert: Mapping[str, int] = field(default_factory=dict)
    draw: Set[str] = frozenset()
    name: Set[str] = frozenset()


def _begin(
    root: Folder, planned: Sequence[Row], numbers: Mapping[str, int]
) -> tuple[list[Row], list[Row]]:
    """Units to invert, those of some faces, and their rows of the store as they begin."""
    chosen = [_since_moved(unit, root) for unit in planned if unit["image_id"] in numbers]
    nothing = dict.fromkeys(LATENTS.names) | {"status": "ok", "source_sha256": ""}
    names = [unit["image_id"] for unit in chosen]
    return chosen, [nothing | {"image_id": name, "row": numbers[name]} for name in names]


def _right_crops(root: Folder, committed: pa.Table) -> dict[str, set[str]]:
    """The sha256 of the crops that faces may be inverted from again: as aligned, or as before."""
    inverted = committed.filter(pc.equal(committed["status"], "ok"))
    before = dict(
        zip(inverted["image_id"].to_pylist(), inverted["source_sha256"].to_pylist(), strict=True)
    )
    aligned = crop_digests(root.url, committed["image_id"].to_pylist())
    return {name: {digest, before.get(name, digest)} for name, digest in aligned.items()}


def _look_for_damage(
    root: Folder, store: LatentStore, planned: Sequence[Row], committed: pa.Table
) -> _Mending:
    rows = [row for row in committed.to_pylist() if row["status"] == "ok"]
    units = {unit["image_id"]: unit for unit in planned}
    crops = {_since_moved(units[row["image_id"]], root)["crop_uri"]: row for row in rows}
    altered = altered_files({uri: row["source_sha256"] for uri, row in crops.items() if uri})
    aligned = crop_digests(root.url, [crops[uri]["image_id"] for uri in altered])
    again = {
        crops[uri]["row"]
        for uri, digest in altered.items()
        if digest and digest == aligned.get(crops[uri]["image_id"])
    }
    again |= store.altered_rows(rows)
    shown = {face_file(row["inversion_uri"], root): row["image_id"] for row in rows}
    return _Mending(
        {row["image_id"]: row["row"] for row in rows if row["row"] in again},
        {shown[uri] for uri in altered_files(dict.fromkeys(shown))},
        store.altered_names(rows),
    )


def _since_moved(unit: Row, root: Folder) -> Row:
    """Return a unit with the URLs of today, if it was planned before the workspace was moved."""
    for name in ("crop_uri", "w_plus_uri"):
        uri = unit[name] or ""
        place = face_file(uri, root)
        # What is nowhere in this workspace is another's, as in a rehearsal.
        if place != uri and is_file(split_member(place, ".npy")[0]):
            unit = unit | {name: place}
    return unit


def _invert_batch(
    batch: Sequence[int],
    units: list[Row],
    rows: list[Row],
    networks: Models,
    pictures: Folder,
    right: Mapping[str, Set[str]],
) -> list[tuple[list[int], Latents]]:
    """Invert the units at the places `batch`, crops and imported latents apart."""
    imported, crops = dict[int, NDArray[np.float32]](), dict[int, Image.Image]()
    for place in batch:
        unit, row = units[place], rows[place]
        if unit["w_plus_uri"]:
            if (w_plus_row := _read_latent(unit, row)) is not None:
                imported[place] = w_plus_row
        elif (crop := _read_crop(unit, row, right.get(unit["image_id"]))) is not None:
            crops[place] = crop
    done = []
    if crops:
        w_plus, sources = _encode([*crops.values()], networks)
        done.append(
            ([*crops], _describe(w_plus, sources, [rows[p] for p in crops], networks, pictures))
        )
    if imported:
        w_plus = torch.from_numpy(np.stack([*imported.values()])).to(networks.device)
        latents = _describe(w_plus, None, [rows[p] for p in imported], networks, pictures)
        done.append(([*imported], latents))
    return done


def _read_crop(unit: Row, row: Row, right: Set[str] | None) -> Image.Image | None:
    """Read a crop that has one of some digests, where any are given."""
    try:
        content = read_url(unit["crop_uri"])
    except FileNotFoundError as error:
        _mark_unreadable(row, unit["crop_uri"], error)
        return None
    row["source_sha256"] = sha256(content)
    if right and row["source_sha256"] not in right:
        _mark_unreadable(row, unit["crop_uri"], "got another picture than was aligned")
        return None
    try:
        return Image.open(io.BytesIO(content)).convert("RGB")
    except PICTURE_ERRORS as error:
        _mark_unreadable(row, unit["crop_uri"], error)
        return None


def _read_latent(unit: Row, row: Row) -> NDArray[np.float32] | None:
    try:
        return read_imported(unit["w_plus_uri"])
    except (FileNotFoundError, ValueError, EOFError, LookupError) as error:
        _mark_unreadable(row, unit["w_plus_uri"], error)
        return None


def _mark_unreadable(row: Row, uri: str, error: Exception | str) -> None:
    row |= {"status": "unreadable", "error": f"{uri}: {error}; {_AGAIN}"}


@torch.no_grad()
def _encode(crops: list[Image.Image], networks: Models) -> tuple[Tensor, Tensor]:
    """W+ [N, num_ws, w_dim] of crops, and the crops as images [N, 3, R, R]."""
    size = networks.encoder.config.input_size
    images = images_to_tensor(crops, size).to(networks.device)
    w_plus = in_lots(networks.encoder, images, networks.lot)
    return w_plus, images_to_tensor(crops).to(networks.device)


@torch.no_grad()
def _describe(
    w_plus: Tensor, sources: Tensor | None, rows: list[Row], networks: Models, pictures: Folder
) -> Latents:
    """Embed sources and inversions, write the inversions, and say in the rows how near they are.

    Imported latents have no photographs: their sources are zeros, and nothing is near them.
    """
    inversions = _draw(w_plus, rows, networks, pictures)
    embed = [
        partial(in_lots, function, lot=_EMBEDDED)
        for function in (networks.judge.embed_images, networks.identity.embed)
    ]
    embedded = [function(inversions) for function in embed]
    before = [function(sources) for function in embed] if sources is not None else []
    if sources is not None:
        shown = images_to_tensor(tensor_to_images(sources), networks.generator.resolution)
        near = {"l1": (inversions.cpu() - shown).abs().mean(dim=(1, 2, 3)).tolist()}
        for name, one, other in zip(("image", "identity"), before, embedded, strict=True):
            near[f"{name}_inversion"] = cosine_similarity(one, other).tolist()
        for index, row in enumerate(rows):
            row |= {name: values[index] for name, values in near.items()}
    for row, is_finite in zip(rows, w_plus.isfinite().all(dim=(1, 2)).tolist(), strict=True):
        if not is_finite:
            row |= {"status": "failed", "error": "the latent holds NaN or infinity"}
    before = before or [torch.zeros_like(one) for one in embedded]
    known = (w_plus, before[0], embedded[0], before[1], embedded[1])
    return Latents(*(tensor.float().cpu().numpy() for tensor in known))


@torch.no_grad()
def _draw(w_plus: Tensor, rows: list[Row], networks: Models, pictures: Folder) -> Tensor:
    """Draw latents, write their pictures, and say in their rows where these are."""
    inversions = in_lots(networks.generator, w_plus, networks.lot).clamp(-1, 1)
    made_by = networks.marks("generator", "encoder")
    for row, picture in zip(rows, tensor_to_images(inversions), strict=True):
        facts = {"image_id": row["image_id"], "source_sha256": row["source_sha256"]}
        facts |= {"code_version": CODE_VERSION, "kind": "inversion"} | made_by
        uri, _ = keep_picture(pictures, row["image_id"], png_bytes(picture, facts))
        row |= {"inversion_uri": uri}
    return inversions


def _concatenate(batches: list[Latents]) -> Latents:
    names = Latents.__dataclass_fields__
    return Latents(*(np.concatenate([getattr(b, name) for b in batches]) for name in names))
