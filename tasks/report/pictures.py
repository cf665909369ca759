"""The pictures of a run, as a report refers to them: thumbnails beside it, originals by links."""

import posixpath
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import quote

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from manifests.edits import IMAGE_ID
from manifests.schemas import LATENTS
from tasks.outputs import TAR
from tasks.photos.faces import faces_ledger
from tasks.places import CROPS, INVERSIONS, LATENT_STORES, RunPlaces
from tasks.report.thumbnails import Source, Thumbnail, make_thumbnails
from tasks.store.folders import Folder, split_member
from tasks.store.ledger import Ledger, Row

THUMBNAILS = "thumbs"

K = TypeVar("K")

# Of each face its aligned photograph and its inversion.
BeforeSources = dict[str, tuple[Source, Source]]


@dataclass(frozen=True)
class Picture:
    """A picture that a page shows.

    Attributes:
        thumb: Address of its thumbnail, relative to the page.
        full: Address of the original, relative to the page; None where it has none of its own.
        side: Pixels of the longer side of the original.
    """

    thumb: str
    full: str | None
    side: int


@dataclass(frozen=True)
class Pictures:
    """The pictures of a run; one that is absent, damaged or altered is not among them.

    Attributes:
        edits: By the index of the row.
        sources: Aligned photographs by image id.
        inversions: Unedited renderings by image id.
        missing: How many edits have no picture though they are ok; thumbnails from before may show
            what it was.
        lost: How many of their faces have no inversion, or not the crop that was committed.
    """

    edits: Mapping[int, Picture]
    sources: Mapping[str, Picture]
    inversions: Mapping[str, Picture]
    missing: int
    lost: int


def find_pictures(
    places: RunPlaces,
    report: Folder,
    rows: pd.DataFrame,
    advance: Callable[[int, int], None] | None = None,
) -> Pictures:
    """Write the thumbnails of a run's pictures, and tell where they are.

    Args:
        places: Where the run is.
        report: Folder of the page.
        rows: Result rows to show.
        advance: Called with the number of pictures done and of all.
    """
    before = committed_sources(places, {*rows["image_id"]})
    crops = {name: crop for name, (crop, _) in before.items()}
    inversions = {name: inversion for name, (_, inversion) in before.items()}
    edits = dict(edited_sources(places, rows))
    wanted = [*crops.values(), *inversions.values(), *edits.values()]
    thumbnails = make_thumbnails(report / THUMBNAILS, wanted, advance)

    def shown(sources: Mapping[K, Source]) -> dict[K, Picture]:
        return {
            key: _picture(report, source, thumbnails[source.uri])
            for key, source in sources.items()
            if source.uri in thumbnails
        }

    def is_there(source: Source) -> bool:
        return source.uri in thumbnails and thumbnails[source.uri].has_original

    done = rows[rows["status"] == "ok"]
    missing = len(done) - sum(map(is_there, edits.values()))
    # Imported latents have no crop, and no row that gives its digest.
    lost = sum(
        not is_there(inversion) or bool(crop.sha256 and not is_there(crop))
        for crop, inversion in (before[name] for name in {*done["image_id"]} & {*before})
    )
    return Pictures(shown(edits), shown(crops), shown(inversions), missing, lost)


def find_edited(
    places: RunPlaces, report: Folder, rows: pd.DataFrame, linked: bool
) -> dict[int, Picture]:
    """Write the thumbnails of another run's edited images, and tell where they are.

    Args:
        places: Where the other run is.
        report: Folder of the page.
        rows: Its result rows to show.
        linked: Whether a page may link to the originals.
    """
    edits = dict(edited_sources(places, rows))
    thumbnails = make_thumbnails(report / THUMBNAILS, edits.values())
    found = {key: one for key, one in edits.items() if one.uri in thumbnails}
    pictures = {key: _picture(report, one, thumbnails[one.uri]) for key, one in found.items()}
    return {key: one if linked else replace(one, full=None) for key, one in pictures.items()}


def relative_url(folder: Folder, url: str) -> str:
    """Return the address of a file for a page in a folder of the same store."""
    return quote(posixpath.relpath(_path(url), _path(folder.url)))


def before_sources(places: RunPlaces, names: Iterable[str]) -> BeforeSources:
    """Return the aligned photographs and the inversions of faces by their usual names.

    A name that was taken by another picture is not theirs, see `committed_sources`, which reads
    the tables of all faces to know.

    Args:
        places: Where the run is.
        names: Image ids; those that name no file are left out.
    """
    crops = places.workspace / CROPS
    inversions = places.workspace / INVERSIONS / places.latents
    return {
        name: (Source(crops.url_of(f"{name}.png")), Source(inversions.url_of(f"{name}.png")))
        for name in dict.fromkeys(names)
        if IMAGE_ID.fullmatch(name)
    }


def committed_sources(places: RunPlaces, names: Collection[str]) -> BeforeSources:
    """Return where the aligned photographs and the inversions of faces are, as their rows say.

    Args:
        places: Where the run is.
        names: Image ids; those of which no row says it, as of imported latents, are looked for by
            their usual names.
    """
    wanted, found = pa.array(names, pa.string()), before_sources(places, names)
    for row in _rows_of(faces_ledger(places.workspace.url), wanted, "crop_uri", "crop_sha256"):
        name, uri = row["image_id"], places.find_face(row["crop_uri"])
        if uri and name in found:
            found[name] = Source(uri, row["crop_sha256"]), found[name][1]
    latents = Ledger(places.workspace / LATENT_STORES / places.latents, LATENTS)
    for row in _rows_of(latents, wanted, "inversion_uri"):
        name, uri = row["image_id"], places.find_face(row["inversion_uri"])
        if uri and name in found:
            found[name] = found[name][0], Source(uri)
    return found


def _rows_of(ledger: Ledger, wanted: pa.Array, *columns: str) -> Iterator[Row]:
    for table in ledger.results():
        own = table.filter(pc.is_in(table["image_id"], wanted))
        yield from own.select(["image_id", *columns]).to_pylist()


def edited_sources(places: RunPlaces, rows: pd.DataFrame) -> Iterator[tuple[int, Source]]:
    """Yield where the edited images of rows are, with the index of the row."""
    columns = (rows["status"], rows["output_uri"], rows["output_sha256"])
    for key, status, uri, digest in zip(rows.index, *columns, strict=True):
        found = places.find_edit(uri) if status == "ok" else None
        if found:
            yield int(key), Source(found, digest)


def _picture(report: Folder, source: Source, thumbnail: Thumbnail) -> Picture:
    # A browser cannot look into a tar.
    linked = thumbnail.has_original and not split_member(source.uri, TAR)[1]
    full = relative_url(report, source.uri) if linked else None
    return Picture(f"{THUMBNAILS}/{thumbnail.name}", full, thumbnail.side)


def _path(url: str) -> str:
    return "/" + url.partition("://")[2] if "://" in url else url
