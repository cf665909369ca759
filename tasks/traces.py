"""Traces: where something in a workspace still names one person."""

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zarr

from tasks.places import CROPS, IMAGES, INVERSIONS
from tasks.store.folders import Folder, sha256

# Prompts are no names, though one may be a word that an image is called by.
_PROMPTS = re.compile(r'"(?:target|neutral)_prompt"\s*:\s*"(?:[^"\\]|\\.)*"')
_NO_NAMES = ("target_prompt", "neutral_prompt", "source_uri")
_HEX = re.compile(r"(?<![0-9a-f])[0-9a-f]{16,64}(?![0-9a-f])")
_HEX_BYTES = re.compile(_HEX.pattern.encode())
_BATCH = 16_384


@dataclass(frozen=True)
class Person:
    """What names one face and nobody else.

    Attributes:
        image_id: Its name.
        uris: Where its photograph and pictures are.
        digests: Hexadecimal digits: of its files, and the ids of its pairs.
    """

    image_id: str
    uris: frozenset[str]
    digests: frozenset[str]

    def is_in_path(self, path: str) -> bool:
        """Return whether a file or folder is called after the face."""
        return bool(self._path.search(path)) or self._has_digest(path)

    def is_in_text(self, text: str) -> bool:
        """Return whether a text has a URI, a digest, or the name as a whole value."""
        text = _PROMPTS.sub("", text)
        return bool(self._name.search(text)) or self.is_referred_to(text)

    def is_referred_to(self, text: str) -> bool:
        """Return whether a text has a URI or a digest."""
        return bool(self._uris.search(text)) or self._has_digest(text)

    def is_in_bytes(self, content: bytes) -> bool:
        """Return whether a file of any kind names the face as our pictures do, or is one of it."""
        if sha256(content) in self.digests or self._bytes.search(content):
            return True
        return any(found.decode() in self.digests for found in _HEX_BYTES.findall(content))

    def is_in_batch(self, batch: pa.RecordBatch) -> bool:
        """Return whether a row of a table is of the face."""
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            is_in = self.is_referred_to if name in _NO_NAMES else self.is_in_text
            if any(map(is_in, _texts(column))):
                return True
        return False

    def _has_digest(self, text: str) -> bool:
        return any(found in self.digests for found in _HEX.findall(text))

    @cached_property
    def _name(self) -> re.Pattern[str]:
        name = re.escape(self.image_id)
        value = rf"(?:^|[\"'`,;<>\t\r\n])(?:{name})(?=$|[\"'`,;<>\t\r\n])"
        return re.compile(f"{value}|{self._path.pattern}")

    @cached_property
    def _path(self) -> re.Pattern[str]:
        name = re.escape(self.image_id)
        return re.compile(
            rf"(?:{CROPS}|{INVERSIONS}(?:/[0-9a-f]+)?)/{name}(?:\.png\b|/)|{IMAGES}/{name}/"
        )

    @cached_property
    def _uris(self) -> re.Pattern[str]:
        return re.compile(self._uri_pattern)

    @cached_property
    def _bytes(self) -> re.Pattern[bytes]:
        name = rf'"image_id"\s*:\s*"{re.escape(self.image_id)}"'
        return re.compile(f"{name}|{self._uri_pattern}".encode())

    @property
    def _uri_pattern(self) -> str:
        written = sorted({form for uri in self.uris for form in _forms(uri)})
        return "|".join(map(_bounded, written)) or "(?!)"


def _texts(column: pa.Array) -> Iterator[str]:
    """Yield the texts of a column of any type, each once in its array."""
    kind, types = column.type, pa.types
    if types.is_dictionary(kind):
        yield from _texts(column.dictionary)
    elif types.is_struct(kind):
        for child in column.flatten():
            yield from _texts(child)
    elif types.is_map(kind):
        yield from _texts(column.keys)
        yield from _texts(column.items)
    elif types.is_nested(kind):
        yield from _texts(column.flatten())
    elif types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        yield from filter(None, pc.unique(column.cast(pa.large_string())).to_pylist())
    elif types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        values = pc.unique(column.cast(pa.large_binary())).to_pylist()
        yield from (value.decode(errors="replace") for value in values if value)


@dataclass(frozen=True)
class Trace:
    """A place that still names a person."""

    url: str
    what: str


def find_traces(folder: Folder, path: str, person: Person) -> Iterator[Trace]:
    """Look for a person in one file of a workspace.

    Tables, tars, texts and arrays of texts are read; of other files the bytes are searched.

    Args:
        folder: Of the workspace.
        path: Of the file in it.
        person: Whom to look for.
    """
    url = folder.url_of(path)
    if person.is_in_path(path):
        yield Trace(url, "the name of the file")
    if ".zarr/" in path and not path.endswith("zarr.json"):
        # The chunks of an array, which are read with its zarr.json.
        return
    try:
        content = folder.read(path)
    except FileNotFoundError:
        return
    if _is_in(content, path, person):
        yield Trace(url, "its content")
    if ".zarr/" in path and _is_in_array(folder, path, content, person):
        yield Trace(url, "texts of the array")


def _is_in(content: bytes, path: str, person: Person) -> bool:
    if person.is_in_bytes(content):
        return True
    try:
        if content[:4] == b"PAR1" == content[-4:]:
            batches = pq.ParquetFile(io.BytesIO(content), pre_buffer=False).iter_batches(
                _BATCH, use_threads=False
            )
            return any(map(person.is_in_batch, batches))
        if path.endswith(".tar"):
            return _is_in_tar(content, person)
    except (pa.ArrowException, tarfile.TarError, OSError):
        # Damaged: its bytes were searched.
        return False
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return False
    return "\0" not in text and person.is_in_text(text)


def _is_in_tar(content: bytes, person: Person) -> bool:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for entry in tar:
            file = tar.extractfile(entry)
            if person.is_in_path(entry.name) or (
                file is not None and _is_in(file.read(), entry.name, person)
            ):
                return True
    return False


def _is_in_array(folder: Folder, path: str, content: bytes, person: Person) -> bool:
    about = json.loads(content)
    if about.get("node_type") != "array" or about.get("data_type") != "string":
        return False
    array = zarr.open_array(folder.zarr_store(path.removesuffix("/zarr.json")), mode="r")
    for start in range(0, array.shape[0], array.chunks[0]):
        texts = set(np.asarray(array[start : start + array.chunks[0]], dtype=object).tolist())
        if not texts.isdisjoint({person.image_id, *person.digests}):
            return True
    return False


def _forms(text: str) -> set[str]:
    """How a text may be written: as it is, in JSON, in a URL."""
    return {text, json.dumps(text)[1:-1], quote(text), quote(text, safe="/:#")}


def _bounded(text: str) -> str:
    """A pattern for a text that is no part of a longer name."""
    return rf"(?<!\w){re.escape(text)}(?![\w-]|\.\w)"
