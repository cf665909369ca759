"""Where edited images go: single files, or tar shards in the layout of webdataset."""

import io
import json
import tarfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Protocol

from PIL import Image

from tasks.places import IMAGES
from tasks.provenance import PICTURE_ERRORS, png_bytes, read_facts, webp_bytes
from tasks.stopwatch import ENCODING, WRITING, Stopwatch
from tasks.store.folders import Folder, read_url, sha256, split_member, split_url

# Images that are read at a time.
_READERS = 8
# Of the files whose members are images.
TAR = ".tar"

_ENCODERS: Mapping[str, Callable[[Image.Image, Mapping[str, object]], bytes]] = {
    "png": png_bytes,
    "webp": webp_bytes,
}


class Output(Protocol):
    """What takes the images of one shard, from several threads at once."""

    def write(
        self, image_id: str, name: str, image: Image.Image, facts: Mapping[str, object]
    ) -> tuple[str, str]:
        """Take one image; return its URI and the sha256 of its file."""

    def close(self) -> None:
        """Make everything durable; rows must not be committed before."""

    def discard(self) -> None:
        """Remove what no row names, since another writer's rows were committed."""


def open_output(
    folder: Folder, layout: str, image_format: str, shard: int, watch: Stopwatch | None = None
) -> Output:
    """Open the output of a shard of the run in `folder`; `watch` is told where the time goes."""
    watch = watch or Stopwatch()
    if layout == "webdataset":
        return TarOutput(folder, image_format, shard, watch)
    return FileOutput(folder, image_format, watch)


class FileOutput:
    """Write `images/<image_id>/<name>-<digest>.<format>`.

    The digest is of the file, so that none is ever replaced by another: of several writers whose
    images differ, each leaves its own, and a committed row names the one that it is about.
    """

    def __init__(self, folder: Folder, image_format: str, watch: Stopwatch) -> None:
        self._folder, self._format, self._watch = folder, image_format, watch

    def write(
        self, image_id: str, name: str, image: Image.Image, facts: Mapping[str, object]
    ) -> tuple[str, str]:
        """Write one file."""
        with self._watch.spend(ENCODING):
            content = _ENCODERS[self._format](image, facts)
        digest = sha256(content)
        path = f"{IMAGES}/{image_id}/{name}-{digest[:8]}.{self._format}"
        with self._watch.spend(WRITING):
            self._folder.write(path, content)
        return self._folder.url_of(path), digest

    def close(self) -> None:
        """Do nothing: every file is whole when it is written."""

    def discard(self) -> None:
        """Do nothing: the other writer's rows may name the same files."""


class TarOutput:
    """Collect a shard in one tar: each image under its key, and its provenance as JSON beside it.

    The URI of an image is that of the tar, `#`, and the name of the member.
    """

    def __init__(self, folder: Folder, image_format: str, shard: int, watch: Stopwatch) -> None:
        self._folder, self._format, self._watch = folder, image_format, watch
        self._path = f"{IMAGES}/shard-{shard:05d}-{uuid.uuid4().hex[:8]}.tar"
        # Image and provenance by key.
        self._samples = dict[str, tuple[bytes, bytes]]()

    def write(
        self, image_id: str, name: str, image: Image.Image, facts: Mapping[str, object]
    ) -> tuple[str, str]:
        """Add one image and its provenance."""
        with self._watch.spend(ENCODING):
            content = _ENCODERS[self._format](image, facts)
        digest = sha256(content)
        # A dot ends the key of a sample in this layout; names may differ in one alone.
        key = f"{image_id}-{name}".replace(".", "_") + f"-{digest[:8]}"
        self._samples[key] = content, json.dumps(facts, sort_keys=True).encode()
        return f"{self._folder.url_of(self._path)}#{key}.{self._format}", digest

    def close(self) -> None:
        """Write the tar, its members by name."""
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w") as tar:
            for key in sorted(self._samples):
                content, facts = self._samples.pop(key)
                _add(tar, f"{key}.{self._format}", content)
                _add(tar, f"{key}.json", facts)
        self._folder.write(self._path, sink.getvalue())

    def discard(self) -> None:
        """Remove the tar, whose name nobody else has."""
        self._folder.remove(self._path)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def without_samples(content: bytes, image_id: str) -> tuple[bytes, int]:
    """Take the samples of a face out of a tar that `TarOutput` wrote.

    Returns:
        The other members as a tar, and how many were taken out.

    Raises:
        tarfile.TarError: It is none.
    """
    keys, sink = _sample_keys(content, image_id), io.BytesIO()
    removed = 0
    with (
        tarfile.open(fileobj=io.BytesIO(content), mode="r:") as old,
        tarfile.open(fileobj=sink, mode="w") as new,
    ):
        for entry in old:
            if _key(entry.name) in keys:
                removed += 1
            else:
                new.addfile(entry, old.extractfile(entry))
    return sink.getvalue(), removed


def _sample_keys(content: bytes, image_id: str) -> set[str]:
    keys = set[str]()
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        for entry in tar:
            file = tar.extractfile(entry) if entry.name.endswith(".json") else None
            if file is not None and json.loads(file.read())["image_id"] == image_id:
                keys.add(_key(entry.name))
    return keys


def _key(name: str) -> str:
    """What the members of a sample have in common: their name up to its dot."""
    return name.partition(".")[0]


def keep_picture(folder: Folder, image_id: str, content: bytes) -> tuple[str, str]:
    """Write `<image_id>.png`, which is never replaced, and return its URI and sha256.

    Of several writers whose pictures differ in the last bit, all believe the first, so that the
    digest in a row is that of the file, whoever commits. Where something else lies under the name,
    left by other photographs or networks, or damaged, the picture is `<image_id>/<digest>.png`.

    Args:
        folder: Of crops or inversions.
        image_id: What the picture shows.
        content: Of a PNG with its provenance.
    """
    name, mine = f"{image_id}.png", content
    try:
        folder.create(name, content)
    except FileExistsError:
        content = folder.read(name)
        if not (_is_whole(content) and _shows_the_same(content, mine)):
            name, content = f"{image_id}/{sha256(mine)[:8]}.png", mine
            # Also over a damaged one, since nothing else has its digest in its name.
            folder.write(name, content)
    return folder.url_of(name), sha256(content)


def _shows_the_same(one: bytes, other: bytes) -> bool:
    """Whether two pictures are of one size, and made from the same by the same code."""
    with Image.open(io.BytesIO(one)) as a, Image.open(io.BytesIO(other)) as b:
        return a.size == b.size and read_facts(one) == read_facts(other)


def _is_whole(content: bytes) -> bool:
    """Whether a picture can be read, and its pixels agree with its own checksums."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.verify()
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except PICTURE_ERRORS:
        return False
    return True


def read_images(uris: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
    """Yield URIs of edited images with their files, None where there is none.

    Of a tar all its images are read in one go.
    """
    members: dict[str, dict[str, str]] = {}
    for uri in uris:
        place, member = split_member(uri, TAR)
        if member:
            members.setdefault(place, {})[member] = uri
            continue
        try:
            yield uri, read_url(uri)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            yield uri, None
    for place, wanted in members.items():
        folder, name = split_url(place)
        # A tar that is absent, cut off, or none at all, has no further images.
        with (
            suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError, tarfile.TarError),
            folder.open(name) as file,
            tarfile.open(fileobj=file, mode="r:") as tar,
        ):
            for entry in tar:
                content = tar.extractfile(entry) if entry.name in wanted else None
                if content is not None:
                    image = content.read()
                    yield wanted.pop(entry.name), image
        yield from ((uri, None) for uri in wanted.values())


def altered_files(wanted: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return which images are not there as they were, with what is there.

    Args:
        wanted: The sha256 of each by its URI; None where any whole picture is right.

    Returns:
        The sha256 of what is there by URI; None where nothing is.
    """
    single = [uri for uri in wanted if not split_member(uri, TAR)[1]]
    parts = [single[i::_READERS] for i in range(_READERS)]
    parts.append([*wanted.keys() - {*single}])
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(partial(_altered, wanted), parts)
        return {uri: got for part in found for uri, got in part}


def _altered(wanted: Mapping[str, str | None], uris: Iterable[str]) -> list[tuple[str, str | None]]:
    altered = list[tuple[str, str | None]]()
    for uri, content in read_images(uris):
        got, right = None if content is None else sha256(content), wanted[uri]
        if content is None or (got != right if right else not _is_whole(content)):
            altered.append((uri, got))
    return altered


def read_image(uri: str) -> bytes:
    """Return the file of an edited image, from wherever a result row says it is.

    Raises:
        FileNotFoundError: It is not there.
    """
    ((_, content),) = read_images([uri])
    if content is None:
        raise FileNotFoundError(uri)
    return content
