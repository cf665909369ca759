"""Alignment: photographs -> FFHQ crops, one row a photograph and face."""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from manifests.schemas import FACES
from styleclip_ops.errors import ConfigError, check_integers
from tasks.once import once
from tasks.outputs import keep_picture
from tasks.photos.crops import NOT_MENDED, crop_file, crops_not_mended, mend_crops
from tasks.photos.decoding import PhotoError, fetch_photo, read_photo
from tasks.photos.detection import Face, FaceDetector, face_detector, finest_level, smallest_side
from tasks.photos.faces import BEGAN, faces_ledger
from tasks.photos.listing import GIVEN_IDS, distinct_id, list_photos
from tasks.photos.listing_table import FURTHER_FACE, ListingError
from tasks.places import CROPS
from tasks.row_logs import log_failures
from tasks.store.folders import FilePlaces, Folder, sha256
from tasks.store.ledger import Ledger, Row
from tasks.store.redaction import bare_address, unsigned

FacesPolicy = Literal["largest", "all", "reject_several"]


# A photograph of 100 megapixels takes about a gigabyte while it is decoded.
_MOST_THREADS = 16
_SETTINGS = "settings.json"


@dataclass(frozen=True)
class AlignmentConfig:
    """What a workspace's faces are; the same for all of them.

    Attributes:
        crop_size: Side of the crops in pixels, 16 to 4096.
        faces: Of a photograph with several faces take the largest, all, or reject it.
        minimum_face: Least side of the FFHQ quad in pixels of the photograph.

    Raises:
        ConfigError: A value is outside its range.
    """

    crop_size: int = 256
    faces: FacesPolicy = "largest"
    minimum_face: float = 32.0

    def __post_init__(self) -> None:
        check_integers(16, 4096, crop_size=self.crop_size)
        if self.faces not in get_args(FacesPolicy):
            raise ConfigError(f"faces: got {self.faces!r}, expected one of {get_args(FacesPolicy)}")
        if not math.isfinite(self.minimum_face) or self.minimum_face < 0:
            raise ConfigError(
                f"minimum_face: got {self.minimum_face}, expected a number of pixels from 0"
            )


def plan_photos(
    workspace: str, source: str, shard_size: int, retry: Collection[str] = ()
) -> list[int]:
    """Plan all photographs of an input that the workspace does not know yet.

    Those that it knows by URLs that were signed otherwise are read from the new ones from now on.

    Args:
        workspace: URL of the workspace.
        source: See `list_photos`.
        shard_size: Most photographs of a shard.
        retry: Statuses of photographs without a face that are looked at again.

    Returns:
        Shards to align, those of earlier inputs included.

    Raises:
        ListingError: See `list_photos`; or a listing gives an id that another photograph has.
    """
    ledger = faces_ledger(workspace)
    photos = list_photos(source, workspace)
    _take_signatures(photos["source_uri"].to_pylist(), ledger)
    while True:
        planned = ledger.plans()
        new = _with_new_ids(photos, ledger, planned)
        check, last = partial(_refuse_taken_ids, new), max(planned, default=-1)
        try:
            ledger.extend(new, "source_uri", shard_size, check, last)
        except _TakenIdError:
            continue
        return shards_to_align(ledger, retry)


def shards_to_align(
    ledger: Ledger,
    retry: Collection[str] = (),
    own: Callable[[Sequence[int]], Sequence[int]] = sorted,
) -> list[int]:
    """Return the planned shards that are not committed, or hold photographs to look at again.

    Args:
        ledger: Of the faces.
        retry: See `plan_photos`.
        own: Returns those of some shards that are looked at.
    """
    return ledger.to_do((lambda rows: bool(_unusable(rows, retry))) if retry else None, own)


def align_photos_shard(
    workspace: str,
    shard: int,
    crop_size: int,
    faces: FacesPolicy,
    minimum_face: float,
    retry: Collection[str] = (),
    redo_damaged: bool = False,
) -> dict[str, int]:
    """Align the photographs of one shard and commit it.

    A photograph that cannot be used is a row with a status. A fault of the store is raised, and the
    shard stays pending.

    Args:
        workspace: URL of the workspace.
        shard: Its number.
        crop_size: See `AlignmentConfig`.
        faces: See `AlignmentConfig`.
        minimum_face: See `AlignmentConfig`.
        retry: Of a shard that is committed those photographs are looked at again that gave no face
            and have one of these statuses.
        redo_damaged: Of a shard that is committed those crops are cut again that are not there as
            they were committed.

    Returns:
        Rows by status that this call made; nothing where another process committed the shard.
        Beside them, how many crops are NOT_MENDED, of which the rows stay as they are.

    Raises:
        ConfigError: A value is outside its range, or the workspace has faces of other values.
    """
    config = AlignmentConfig(crop_size, faces, float(minimum_face))
    ledger, began = faces_ledger(workspace), datetime.now(UTC).isoformat()
    bind_alignment(ledger.folder, config)
    before = ledger.read_commit(shard) if ledger.is_committed(shard) else None
    root, units = Folder(workspace), ledger.units(shard).to_pylist()
    kept, mended = dict[str, Row](), list[Row]()
    if before:
        known = ledger.rows(shard)
        if redo_damaged:
            mended = mend_crops(known.to_pylist(), units, root, crop_size, _threads())
        again = _unusable(known, retry)
        units = [unit for unit in units if bare_address(unit["source_uri"]) in again]
        stays = (row for row in known.to_pylist() if bare_address(row["source_uri"]) not in again)
        kept = {row["image_id"]: row for row in stays}
        cut = {row["image_id"]: row for row in mended if row["status"] != NOT_MENDED}
        kept |= cut
        if not units and not cut:
            log_failures(ledger.folder.url, shard, "source_uri", mended)
            return dict(Counter(row["status"] for row in mended))
    rows = list[Row]()
    if units:
        align = _Aligner(root / CROPS, face_detector(), config).align
        rows = [row for found in _threads().map(align, units) for row in found]
    facts = {"photos": len(units), BEGAN: began}
    table = pa.Table.from_pylist([*kept.values(), *rows], FACES)
    if not ledger.wrote(ledger.commit(shard, table, facts, before)):
        if not mended:
            return {}
        # Who came first may have cut other crops than lie there now.
        return align_photos_shard(
            workspace, shard, crop_size, faces, minimum_face, retry, redo_damaged
        )
    log_failures(ledger.folder.url, shard, "source_uri", [*mended, *rows])
    return dict(Counter(row["status"] for row in (*mended, *rows)))


def faces_not_mended(workspace: str, shards: Collection[int]) -> Iterator[tuple[str, str, str]]:
    """Yield face, photograph and reason of damaged crops of shards that cannot be cut again."""
    ledger = faces_ledger(workspace)
    for shard in shards:
        faces, photos = ledger.rows(shard).to_pylist(), ledger.units(shard).to_pylist()
        yield from crops_not_mended(faces, photos, Folder(workspace))


def _unusable(faces: pa.Table, statuses: Collection[str]) -> set[str]:
    """Bare addresses of the photographs that gave no face, and have one of some statuses."""
    usable = faces.filter(pc.equal(faces["status"], "ok"))["source_uri"].to_pylist()
    named = faces.filter(pc.is_in(faces["status"], pa.array([*statuses], pa.string())))
    return {*map(bare_address, named["source_uri"].to_pylist())} - {*map(bare_address, usable)}


def choose_faces(found: list[Face], config: AlignmentConfig) -> list[Face]:
    """Return the faces of a photograph that get a row, given all, the largest first.

    Raises:
        PhotoError: There are several and they are rejected; those below `minimum_face` do not
            count.
    """
    if config.faces == "all":
        return found
    large = [face for face in found if face.side >= config.minimum_face]
    if config.faces == "reject_several" and len(large) > 1:
        raise PhotoError("several_faces", f"got {len(large)} faces, expected one")
    return found[:1]


@dataclass(frozen=True)
class _Aligner:
    """Align photographs one by one; may be used by several threads at once."""

    crops: Folder
    detector: FaceDetector
    config: AlignmentConfig

    def align(self, unit: Mapping[str, Any]) -> list[Row]:
        """Return the rows of a photograph, its crops being written."""
        row: Row = {**dict.fromkeys(FACES.names), **unit}
        try:
            photo = self._read(row)
            chosen = choose_faces(self._find(photo, row), self.config)
        except PhotoError as error:
            return [row | {"status": error.status, "error": str(error)}]
        return [self._face_row(photo, face, index, row) for index, face in enumerate(chosen)]

    def _read(self, row: Row) -> Image.Image:
        content = fetch_photo(row["source_uri"])
        row["source_sha256"] = sha256(content)
        photo = read_photo(content)
        row["width"], row["height"] = photo.size
        return photo

    def _find(self, photo: Image.Image, row: Row) -> list[Face]:
        wanted = self.config.minimum_face
        only_largest = self.config.faces == "largest"
        found = self.detector.find_faces(photo, wanted, only_largest=only_largest)
        row["num_faces"] = len(found)
        if not found:
            side = smallest_side(finest_level(*photo.size, wanted))
            raise PhotoError("no_face", f"found no face of about {side:.0f} px or more")
        return found

    def _face_row(self, photo: Image.Image, face: Face, index: int, photo_row: Row) -> Row:
        row = photo_row | {"face_index": index, "score": face.score, "quad": face.quad.ravel()}
        if index:
            row["image_id"] += f".face{index}"
        if face.side < self.config.minimum_face:
            message = f"got a quad of {face.side:.0f} px, expected {self.config.minimum_face:g}"
            return row | {"status": "too_small", "error": message}
        try:
            content = crop_file(photo, row, self.config.crop_size)
        except ConfigError as error:
            return row | {"status": "no_face", "error": str(error)}
        crop_uri, crop_sha256 = keep_picture(self.crops, row["image_id"], content)
        return row | {"status": "ok", "crop_uri": crop_uri, "crop_sha256": crop_sha256}


def _take_signatures(uris: Iterable[str], ledger: Ledger) -> None:
    """Plan photographs anew at URLs that were signed since: the earlier ones may have expired."""
    fresh = {bare: uri for uri in uris if (bare := unsigned(uri)) != uri}
    for shard in ledger.plans() if fresh else ():
        units = ledger.units(shard)
        before = units["source_uri"].to_pylist()
        after = [fresh.get(unsigned(uri), uri) for uri in before]
        if after != before:
            place = units.schema.get_field_index("source_uri")
            column = pa.array(after, pa.string())
            ledger.readdress_shard(shard, units.set_column(place, units.field(place), column))


def _with_new_ids(photos: pa.Table, ledger: Ledger, shards: Sequence[int]) -> pa.Table:
    """Return the photographs that these shards do not plan, with ids that no other one has.

    A photograph whose URL was only signed anew is planned, and so is one whose folder is named by
    another path, as by a link to it.
    """
    planned = {
        _first_face(unit["image_id"]): unit["source_uri"]
        for shard in shards
        for unit in ledger.units(shard).to_pylist()
    }
    place = FilePlaces().of
    known = {place(unsigned(uri)) for uri in planned.values()}
    ids, uris = list[str](), list[str]()
    for image_id, uri in _pairs(photos):
        bare = unsigned(uri)
        here = place(bare)
        if here in known:
            continue
        known.add(here)
        other = planned.get(image_id.lower())
        if other and GIVEN_IDS in (photos.schema.metadata or {}):
            raise ListingError(
                f"image_id {image_id}: got {bare}, expected {unsigned(other)}, which had this id "
                "before; give another id, or take another workspace"
            )
        uris.append(uri)
        ids.append(distinct_id(image_id, bare) if other else image_id)
    columns = [pa.array(ids, pa.string()), pa.array(uris, pa.string())]
    return pa.table(columns, photos.schema.remove_metadata())


class _TakenIdError(Exception):
    """Another process gave an image id to another photograph meanwhile."""


def _refuse_taken_ids(new: pa.Table, planned: pa.Table) -> None:
    taken = {_first_face(image_id): uri for image_id, uri in _pairs(planned)}
    if any(taken.get(image_id.lower(), uri) != uri for image_id, uri in _pairs(new)):
        raise _TakenIdError


def _first_face(image_id: str) -> str:
    """The id of a photograph's first face; where that was forgotten, it goes by another's."""
    return FURTHER_FACE.sub("", image_id).lower()


def _pairs(photos: pa.Table) -> Iterable[tuple[str, str]]:
    return zip(photos["image_id"].to_pylist(), photos["source_uri"].to_pylist(), strict=True)


def require_same_alignment(workspace: str, config: AlignmentConfig) -> None:
    """See that the faces which a workspace has, if any, were made with the same parameters.

    Raises:
        ConfigError: They were not.
    """
    folder = faces_ledger(workspace).folder
    if folder.exists(_SETTINGS):
        _compare(folder, config)


def bind_alignment(folder: Folder, config: AlignmentConfig) -> None:
    """Bind a workspace's faces to the parameters that the first of them are made with.

    Args:
        folder: Of the faces' ledger.
        config: The parameters.

    Raises:
        ConfigError: It has faces of others.
    """
    try:
        folder.create(_SETTINGS, json.dumps(asdict(config), indent=1).encode())
    except FileExistsError:
        _compare(folder, config)


def _compare(folder: Folder, config: AlignmentConfig) -> None:
    mine, before = asdict(config), faces_settings(folder)
    for name in mine:
        if mine[name] != before[name]:
            raise ConfigError(
                f"{name}: got {mine[name]!r}, expected {before[name]!r} as for the faces that "
                f"{folder.url} already has; take another workspace"
            )


def faces_settings(folder: Folder) -> dict[str, Any]:
    """Return the parameters that a workspace's faces were made with, see `AlignmentConfig`.

    Args:
        folder: Of the faces' ledger.

    Raises:
        FileNotFoundError: There are none yet.
        ConfigError: They are damaged.
    """
    names, content = [*AlignmentConfig.__dataclass_fields__], folder.read(_SETTINGS)
    try:
        return {name: json.loads(content)[name] for name in names}
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"{folder.url}/{_SETTINGS}: got a damaged file, expected {', '.join(names)}; restore "
            "it from a copy, or remove it: `styleclip align` makes it anew, of which --crop-size, "
            "--faces and --minimum-face should be as before"
        ) from error


def align_threads() -> int:
    """Return how many photographs are aligned at a time: more than cores, since some wait."""
    return min((os.cpu_count() or 1) + 2, _MOST_THREADS)


@once
def _threads() -> ThreadPoolExecutor:
    """The threads of this process for all its shards."""
    return ThreadPoolExecutor(align_threads(), "align")
