"""Listings of photographs that people write: CSV or Parquet, one photograph a row."""

import posixpath
import re
from itertools import repeat
from typing import NamedTuple

from manifests.cells import as_name
from manifests.errors import ManifestError, Mistake, RowError, require_no_errors
from manifests.tables import RawBatch, stream_table
from tasks.store.folders import Folder, split_url
from tasks.store.redaction import unsigned

LISTINGS = {".csv", ".parquet"}
# The ending of the id of a photograph's second face; the next ends in 2.
FURTHER_FACE = re.compile(r"\.face\d+$")

_URI_COLUMNS = ("source_uri", "path", "uri", "url")
_ID_COLUMN = "image_id"
# Leaves room for the ending of a further face in the 120 characters of an id.
_LONGEST_ID = 112
_LONGEST_URI = 4096
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{_LONGEST_ID - 1}}}")
IMAGE_ID_RULE = (
    f"a name of at most {_LONGEST_ID} letters, digits, '.', '_' and '-' that begins with a letter "
    "or digit and does not end like '.face1'"
)


class ListingError(ValueError):
    """An input names no photographs, or a listing has mistakes."""


class Photo(NamedTuple):
    """A photograph of an input.

    Attributes:
        uri: Where it is.
        name: What its id is made of: its path relative to the input, or its file name.
        key: Tells photographs of one name apart.
        image_id: As the listing gives it; None if it gives none.
    """

    uri: str
    name: str
    key: str
    image_id: str | None = None


def read_listing(url: str) -> list[Photo]:
    """Read the photographs that a listing names.

    Raises:
        ListingError: It has mistakes.
    """
    folder, name = split_url(url)
    reader = _Reader(folder)
    try:
        with folder.open(name) as file:
            for batch in stream_table(file, [*_URI_COLUMNS, _ID_COLUMN], {}):
                reader.read(batch)
        require_no_errors(sorted(reader.errors, key=lambda error: error.row), "listing")
    except ManifestError as error:
        raise ListingError(f"{url}: {error}") from error
    return reader.photos


def is_image_id(name: str) -> bool:
    """Return whether a photograph may have this name."""
    return bool(_ID.fullmatch(name)) and not FURTHER_FACE.search(name)


def is_text(name: str) -> bool:
    """Whether a name can be stored: bytes that are not UTF-8 become lone surrogates."""
    return not _NO_TEXT.search(name)


def as_text(name: str) -> str:
    r"""Return a name as it can be stored: the byte FF, which is not UTF-8, as `\udcff`."""
    return _NO_TEXT.sub(lambda letter: letter[0].encode("unicode_escape").decode(), name)


class _CellError(Exception):
    """A cell of a listing is wrong."""

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(str(mistake))
        self.mistake = mistake


class _Reader:
    """Collect the photographs of a listing, and its mistakes."""

    def __init__(self, folder: Folder) -> None:
        self.photos, self.errors = list[Photo](), list[RowError]()
        self._folder = folder
        # The rows that first had a value.
        self._uri_rows, self._id_rows = dict[str, int](), dict[str, int]()

    def read(self, batch: RawBatch) -> None:
        """Add some rows."""
        self.errors += batch.errors
        columns = [name for name in _URI_COLUMNS if name in batch.columns]
        if len(columns) != 1:
            raise ManifestError(
                f"columns: got {', '.join(batch.columns)}, expected exactly one of "
                f"{', '.join(_URI_COLUMNS)}"
            )
        uris = batch.columns[columns[0]]
        ids = batch.columns.get(_ID_COLUMN)
        for row, uri, image_id in zip(batch.rows, uris, ids or repeat(None), strict=False):
            try:
                photo = self._photo(row, columns[0], uri)
                if ids is not None:
                    photo = photo._replace(image_id=self._image_id(row, image_id))
            except _CellError as error:
                self.errors.append(RowError(row, *error.mistake))
            else:
                self.photos.append(photo)

    def _photo(self, row: int, column: str, cell: object) -> Photo:
        if not isinstance(cell, str) or not cell.strip() or len(cell) > _LONGEST_URI:
            expected = f"a path or URL of at most {_LONGEST_URI:,} characters"
            raise _CellError(Mistake(column, cell, expected, "correct the cell or remove the row"))
        if not is_text(cell):
            raise _CellError(Mistake(column, cell, "text in UTF-8", "save the listing as UTF-8"))
        relative = "://" not in cell and not cell.startswith(("/", "~"))
        try:
            uri = Folder(_below(self._folder, cell) if relative else cell).url
        except ValueError as error:
            # The URL may hold a password.
            got, expected = cell.split("://")[0] + "://...", "a URL that can be opened"
            raise _CellError(Mistake(column, got, expected, str(error))) from error
        # One photograph may be signed twice.
        bare = unsigned(uri)
        _check_first(self._uri_rows, row, Mistake(column, bare, "each photograph once", ""))
        if relative:
            return Photo(uri, posixpath.normpath(cell), posixpath.normpath(cell))
        return Photo(uri, bare.split("?")[0].rsplit("/", 1)[-1], bare)

    def _image_id(self, row: int, cell: object) -> str:
        name = as_name(cell)
        if not isinstance(name, str) or not is_image_id(name):
            raise _CellError(Mistake(_ID_COLUMN, cell, IMAGE_ID_RULE, "rename it"))
        _check_first(self._id_rows, row, Mistake(_ID_COLUMN, name, "each id once", ""))
        return name


def _check_first(rows: dict[str, int], row: int, repeated: Mistake) -> None:
    first = rows.setdefault(str(repeated.got), row)
    if first != row:
        raise _CellError(repeated._replace(remedy=f"row {first:,} has it already"))


def _below(folder: Folder, path: str) -> str:
    """The URL of a path that is relative to a folder, and may lead out of it."""
    scheme, mark, root = folder.url.rpartition("://")
    return scheme + mark + posixpath.normpath(posixpath.join(root, path))
