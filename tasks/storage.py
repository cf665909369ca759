"""Folders on any fsspec URL: a directory, s3://, gs://, memory://. All paths are made here."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import zarr.storage
from fsspec import AbstractFileSystem
from zarr.abc.store import Store


class Folder:
    """A folder of files that are whole or absent.

    Args:
        url: A directory or any URL that fsspec opens. Credentials and endpoints come from the
            environment or fsspec's own configuration files, never from the URL.

    Raises:
        ValueError: The URL's protocol is unknown, or it carries a password.
    """

    def __init__(self, url: str) -> None:
        self._fs, self._path = _resolve(url)

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.url_of(name))

    @property
    def is_local(self) -> bool:
        """Whether it is a directory of this machine."""
        return "file" in _protocols(self._fs)

    @property
    def url(self) -> str:
        """The URL, without a trailing slash; a plain absolute path for a directory."""
        return self._url(self._path)

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self._path.rsplit("/", 1)[-1]

    def url_of(self, name: str) -> str:
        """Return the URL of a file or folder inside.

        Raises:
            ValueError: The name leads out of the folder.
        """
        return self._url(self._join(name))

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            FileNotFoundError: There is none.
        """
        content: bytes = self._fs.cat_file(self._join(name))
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it; at no time can a part of it be seen."""
        path = self._join(name)
        if self.is_local:
            with _written_beside(path, content) as part:
                Path(part).replace(path)
            return
        self._fs.pipe_file(path, content)

    def take_in(self, name: str, source: Path) -> None:
        """Write a file as a copy of one of this machine, or replace it; it is never held whole."""
        path = self._join(name)
        if self.is_local:
            with _written_beside(path, b"") as part:
                shutil.copyfile(source, part)
                _sync(Path(part))
                Path(part).replace(path)
            return
        self._fs.put_file(str(source), path)

    def create(self, name: str, content: bytes) -> None:
        """Write a file that is not there yet.

        Raises:
            FileExistsError: It is there. Of several that try at once one succeeds.
        """
        path = self._join(name)
        if self.is_local:
            # A link appears at once with its whole content, and never replaces another.
            with _written_beside(path, content) as part:
                os.link(part, path)
            return
        self._fs.pipe_file(path, content, mode="create")

    def exists(self, name: str) -> bool:
        """Return whether there is a file or folder of this name."""
        return bool(self._fs.exists(self._join(name)))

    def names(self, suffix: str = "") -> list[str]:
        """Return the sorted names of all files and folders directly inside that end so."""
        try:
            entries = self._fs.ls(self._path, detail=False)
        except FileNotFoundError:
            return []
        names = (entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries)
        own = self.name
        return sorted(n for n in names if n.endswith(suffix) and n != own and n[0] != ".")

    def versions(self) -> tuple[tuple[str, str], ...]:
        """Return the names of all files directly inside, with what changes when one is replaced."""
        try:
            entries = self._fs.ls(self._path, detail=True)
        except FileNotFoundError:
            return ()
        marks = ("ETag", "etag", "mtime", "created", "size")
        return tuple(
            sorted((e["name"], str([e[mark] for mark in marks if mark in e])) for e in entries)
        )

    def files(self) -> list[str]:
        """Return the sorted names of all files inside, at any depth; linked folders are left out.

        Raises:
            OSError: A folder inside cannot be listed.
        """
        if self.is_local:
            return sorted(_walk(self._path))
        prefix = f"{self._path}/"
        found = self._fs.find(self._path)
        return sorted(path.removeprefix(prefix) for path in found if path.startswith(prefix))

    def remove(self, name: str) -> None:
        """Remove a file; it is no error if there is none."""
        try:
            self._fs.rm_file(self._join(name))
        except FileNotFoundError:
            return

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """Open a file for reading from any place."""
        with self._fs.open(self._join(name), "rb") as file:
            yield file

    def zarr_store(self, name: str) -> Store:
        """Return the place of a Zarr group inside."""
        path = self._join(name)
        if self.is_local:
            return zarr.storage.LocalStore(path)
        return zarr.storage.FsspecStore.from_url(self._url(path), storage_options=_OPTIONS)

    def _join(self, name: str) -> str:
        if not name or name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"name: got {name!r}, expected a path inside {self.url}")
        return f"{self._path}/{name}"

    def _url(self, path: str) -> str:
        return path if self.is_local else str(self._fs.unstrip_protocol(path))


def split_url(url: str) -> tuple[Folder, str]:
    """Split the URL of a file into its folder and its name."""
    fs, path = _resolve(url)
    parent, _, name = path.rpartition("/")
    return Folder(parent if "file" in _protocols(fs) else str(fs.unstrip_protocol(parent))), name


def read_url(url: str) -> bytes:
    """Return the content of the file at a URL.

    Raises:
        FileNotFoundError: There is none.
    """
    folder, name = split_url(url)
    return folder.read(name)


def is_file(url: str) -> bool:
    """Return whether there is a file at a URL."""
    fs, path = _resolve(url)
    return bool(fs.isfile(path))


def sha256(content: bytes) -> str:
    """Return the SHA-256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


# Listings must show what other writers did since.
_OPTIONS = {"use_listings_cache": False}


def _resolve(url: str) -> tuple[AbstractFileSystem, str]:
    if "://" in url and urlsplit(url).password:
        raise ValueError(
            f"URL of {urlsplit(url).hostname}: got a password in it, expected none; "
            "give credentials in the environment"
        )
    protocol = url.split("://", 1)[0] if "://" in url else "file"
    try:
        fs = _file_system(protocol)
        return fs, str(fs._strip_protocol(url)).rstrip("/")
    except (ValueError, ImportError):
        raise
    except Exception as error:
        # File systems inside others, zip:// and such, fail in many ways without an outer one.
        raise ValueError(
            f"URL: got the protocol {protocol!r}, expected a directory, s3://, gs://, memory:// or "
            f"another one that needs no more than the URL ({type(error).__name__})"
        ) from error


@cache
def _file_system(protocol: str) -> AbstractFileSystem:
    return fsspec.filesystem(protocol, **_OPTIONS)


def _protocols(fs: AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _walk(root: str) -> Iterator[str]:
    """Yield the relative names of the regular files under a directory."""

    def fail(error: OSError) -> None:
        raise error

    # fsspec's own walk passes over directories that it cannot read.
    for folder, _, names in os.walk(root, onerror=None if not Path(root).is_dir() else fail):
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                yield path.relative_to(root).as_posix()


@contextmanager
def _written_beside(path: str, content: bytes) -> Iterator[str]:
    """Give the path of a file with this content, on disk for good, next to `path`."""
    parent = Path(path).parent
    parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=".part-", dir=parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(part).chmod(0o644)
        yield part
    finally:
        Path(part).unlink(missing_ok=True)
    _sync(parent)


def _sync(path: Path) -> None:
    """Make the content of a file, or new names in a directory, survive a power loss."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
