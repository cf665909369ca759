"""Small copies of pictures, so that a report opens quickly and can be handed on without the run."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from PIL import Image

from tasks.outputs import TAR, read_images
from tasks.provenance import PICTURE_ERRORS
from tasks.store.folders import Folder, sha256, split_member, split_url

# Twice the size at which pages show them, for dense screens.
_LARGEST_SIDE = 256
# Up to this size a lossless copy is small, and pages enlarge it pixel by pixel.
_LOSSLESS_SIDE = 128
_READERS = 8


@dataclass(frozen=True)
class Source:
    """A picture of a run.

    Attributes:
        uri: Of its file, or that of a tar, `#`, and the name of the member.
        sha256: Of its file; None where unknown.
    """

    uri: str
    sha256: str | None = None


@dataclass(frozen=True)
class Thumbnail:
    """A small copy.

    Attributes:
        name: Of its file, which its original's digest and side give.
        side: Pixels of the longer side of the original.
        has_original: Whether that is there; a thumbnail from before is shown without.
    """

    name: str
    side: int
    has_original: bool = True


def make_thumbnails(
    folder: Folder,
    sources: Iterable[Source],
    advance: Callable[[int, int], None] | None = None,
) -> dict[str, Thumbnail]:
    """Write the thumbnails that are not in the folder yet.

    Args:
        folder: Where they go.
        sources: The pictures; the same one may come several times.
        advance: Called with the number of pictures done and of all.

    Returns:
        Thumbnails by URI. A picture that is absent, no image, or not the one of its digest has
        none, unless it has one from before: such a picture is not read again.
    """
    present = {name.partition("-")[0]: _named(name) for name in folder.names(".webp")}
    known, missing = dict[str, dict[str, Thumbnail]](), dict[str, dict[str, Source]]()
    for source in sources:
        thumbnail = present.get(_stem(source.sha256)) if source.sha256 else None
        place = split_member(source.uri, TAR)[0]
        if thumbnail:
            known.setdefault(place, {})[source.uri] = thumbnail
        else:
            missing.setdefault(place, {})[source.uri] = source
    done = sum(map(len, known.values()))
    found, total = dict[str, Thumbnail](), done + sum(map(len, missing.values()))
    with ThreadPoolExecutor(_READERS) as pool:
        for place, is_there in zip(known, pool.map(_is_there, known), strict=True):
            found |= {
                uri: replace(thumbnail, has_original=is_there)
                for uri, thumbnail in known[place].items()
            }
        made = pool.map(lambda place: dict(_make(folder, missing[place], present)), missing)
        for place, thumbnails in zip(missing, made, strict=True):
            found |= thumbnails
            done += len(missing[place])
            if advance:
                advance(done, total)
    return found


def _is_there(url: str) -> bool:
    folder, name = split_url(url)
    return folder.exists(name)


def _make(
    folder: Folder, sources: Mapping[str, Source], present: Mapping[str, Thumbnail]
) -> Iterator[tuple[str, Thumbnail]]:
    for uri, content in read_images(sources):
        digest = sha256(content) if content else ""
        if not content or sources[uri].sha256 not in (None, digest):
            continue
        thumbnail = present.get(_stem(digest))
        if not thumbnail:
            try:
                side, small = _shrunk(content)
            except PICTURE_ERRORS:
                continue
            thumbnail = Thumbnail(f"{_stem(digest)}-{side}.webp", side)
            folder.write(thumbnail.name, small)
        yield uri, thumbnail


def _shrunk(content: bytes) -> tuple[int, bytes]:
    """The longer side of a picture in pixels, and its thumbnail."""
    with Image.open(io.BytesIO(content)) as image:
        return max(image.size), thumbnail_bytes(image)


def thumbnail_bytes(picture: Image.Image, largest_side: int = _LARGEST_SIDE) -> bytes:
    """Encode a picture as a WebP of at most `largest_side` pixels by as many."""
    small = picture.convert("RGB")
    small.thumbnail((largest_side, largest_side), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    small.save(sink, "WEBP", lossless=max(small.size) <= _LOSSLESS_SIDE, quality=80)
    return sink.getvalue()


def _stem(digest: str) -> str:
    return digest[:20]


def _named(name: str) -> Thumbnail:
    return Thumbnail(name, int(name.removesuffix(".webp").partition("-")[2]))
