"""Which photographs an input holds, and the names they have in every table."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import pyarrow as pa
from fsspec.utils import glob_translate

from tasks.photos.listing_table import (
    FURTHER_FACE,
    LISTINGS,
    ListingError,
    Photo,
    as_text,
    is_text,
    read_listing,
)
from tasks.places import FACES, LATENT_STORES, OWN_FOLDERS, RUNS
from tasks.store.folders import Folder, is_file, nearest, sha256, split_url
from tasks.store.ledger import PLANS

PHOTOS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("source_uri", pa.string(), nullable=False),
    ]
)

# Metadata of a table of photographs whose ids a listing gave.
GIVEN_IDS = b"given_ids"

# Texts, tables and what phones and Windows leave beside photographs.
SIDECARS = {
    *(".csv", ".json", ".jsonl", ".md", ".parquet", ".txt", ".xml", ".xmp", ".yaml", ".yml"),
    *(".aae", ".db", ".ini"),
}

_EXPECTED = "expected a folder, a glob, a prefix, a photograph, or a CSV or Parquet listing"
_LONGEST_STEM = 100
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,5}$")
_OTHER = re.compile(r"[^A-Za-z0-9._-]")
# What `distinct_id` appends.
_DISTINCT = re.compile(r"--[0-9a-f]{8}$")
_MAGIC = re.compile(r"[*?[]")
# Files that only workspaces have.
_OF_A_WORKSPACE = re.compile(
    rf"(?P<root>(?:.+/)??)(?:{FACES}|(?:{LATENT_STORES}|{RUNS})/[^/]+)/{PLANS}/"
)


def list_photos(source: str, workspace: str = "") -> pa.Table:
    """List the photographs of an input in a stable order.

    - A folder or object-store prefix: every file in it, at any depth, by name, so that also a file
      that is no photograph gets its row, or a link to nothing, or whose name is not UTF-8 (see
      `as_text`). Folders may be links; each is looked into once. Hidden files and folders are left
      out, what other workspaces hold, and texts and tables by their suffix (SIDECARS).
    - A glob: the same of what it matches.
    - A listing (CSV or Parquet): its rows in order, with the columns source_uri (or path, uri, url)
      and optionally image_id. Relative paths are relative to the listing.
    - Any other file: that photograph.

    Where no listing gives an id, it is the path relative to the input (of an absolute path or URL
    in a listing, the file name) without its suffix, with "-" for "/". If it would hold other
    characters than letters, digits, ".", "_" and "-", or if two photographs would have the same
    but for case, it ends in "--" and eight digits of a hash of the path.

    Args:
        source: Path or URL.
        workspace: Its URL; what it holds itself is left out where it lies in the input.

    Returns:
        Table of the schema PHOTOS, no uri and no id twice. Its metadata has GIVEN_IDS where a
        listing gave the ids.

    Raises:
        ListingError: There are no photographs, or the listing has mistakes: the message has the
            first 20, with their rows, and the number of all.
    """
    require_photos(source, workspace)
    is_listing = PurePosixPath(source).suffix.lower() in LISTINGS and is_file(source)
    photos = read_listing(source) if is_listing else [*_find(source, workspace)]
    if not photos:
        raise ListingError(f"photographs: got {source}, in which there are none; {_EXPECTED}")
    given = [photo.image_id for photo in photos if photo.image_id is not None]
    columns = {"image_id": given or _image_ids(photos), "source_uri": [p.uri for p in photos]}
    return pa.table(columns, PHOTOS.with_metadata({GIVEN_IDS: b""} if given else None))


def require_photos(source: str, workspace: str = "") -> None:
    """Refuse an input of this machine that is not there or empty; a store would be asked for all.

    Args:
        source: See `list_photos`.
        workspace: Likewise.

    Raises:
        ListingError: It is not there, or a folder without a file that may be a photograph; or it is
            another workspace.
    """
    folder = Folder(source)
    if workspace and folder.url != Folder(workspace).url and (folder / FACES).exists(PLANS):
        raise ListingError(
            f"photographs: got {source}, which is a workspace, expected photographs; are two "
            "arguments swapped? `styleclip align PHOTOS WORKSPACE`"
        )
    if not folder.is_local or _MAGIC.search(source):
        return
    path = Path(folder.url)
    if not path.exists():
        raise ListingError(
            f"photographs: got {source}, which is not there{nearest(source)}; {_EXPECTED}"
        )
    if path.is_dir() and not any(map(_is_wanted, folder.walk(links=True))):
        raise ListingError(f"photographs: got {source}, in which there are none; {_EXPECTED}")


def distinct_id(image_id: str, key: str) -> str:
    """Return an id that no photograph has without the same `key`."""
    return f"{image_id[:_LONGEST_STEM]}--{sha256(key.encode())[:8]}"


def _find(source: str, workspace: str) -> Iterator[Photo]:
    if is_file(source):
        folder, name = split_url(source)
        names = [name]
    else:
        folder = Folder(source)
        found = names = folder.files(links=True)
        magic = _MAGIC.search(source)
        if magic and not names:
            folder, found, names = _match(source, source.rfind("/", 0, magic.start()) + 1)
        own = _held_by_workspaces(folder, found, workspace)
        names = [
            name for name in names if _is_wanted(name) and not folder.url_of(name).startswith(own)
        ]
    if not is_text(folder.url):
        raise ListingError(
            f"photographs: got the folder {folder.url!r}, expected a name in UTF-8; rename it"
        )
    # What no table can name is not there by the name that it gets: a row `unreadable`, where a
    # refusal would keep all others from their nightly run.
    for name in map(as_text, names):
        yield Photo(folder.url_of(name), name, name)


def _held_by_workspaces(folder: Folder, names: Sequence[str], workspace: str) -> tuple[str, ...]:
    """URLs of folders that workspaces in a folder, or the one at hand, hold themselves."""
    marks = filter(None, map(_OF_A_WORKSPACE.match, names))
    roots = {f"{folder.url}/{mark['root']}".rstrip("/") for mark in marks}
    roots |= {Folder(workspace).url} if workspace else set()
    own = tuple(f"{Folder(root).url_of(name)}/" for root in roots for name in OWN_FOLDERS)
    # Who names such a folder itself means what lies in it.
    return () if f"{folder.url}/".startswith(own) else own


def _match(pattern: str, start: int) -> tuple[Folder, list[str], list[str]]:
    """Find files in the folder that is spelt out before `start`, and those that a glob matches."""
    folder, sought = Folder(pattern[:start] or "."), pattern[start:]
    match, depth = re.compile(glob_translate(sought)), sought.count("/")
    # What lies deeper may be all that a machine has, as beside /*.jpg.
    names = folder.files(None if "**" in sought else depth, links=True)
    return folder, names, [name for name in names if match.match(name)]


def _is_wanted(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.suffix.lower() not in SIDECARS


def _image_ids(photos: Sequence[Photo]) -> list[str]:
    stems = [_stem(photo.name) for photo in photos]
    uses = Counter(stem.lower() for stem, _ in stems)
    return [
        stem if is_whole and uses[stem.lower()] == 1 else distinct_id(stem, photo.key)
        for photo, (stem, is_whole) in zip(photos, stems, strict=True)
    ]


def _stem(name: str) -> tuple[str, bool]:
    """The part of a name that an id keeps, and whether that tells it from all other names."""
    dashed = _SUFFIX.sub("", name).replace("/", "-")
    stem = _OTHER.sub("_", dashed).lstrip("._-")[:_LONGEST_STEM] or "photo"
    return stem, stem == dashed and not FURTHER_FACE.search(stem) and not _DISTINCT.search(stem)
