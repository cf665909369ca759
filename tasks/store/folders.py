"""Folders on any fsspec URL: a directory, s3://, gs://, memory://. All paths are made here."""

import asyncio
import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
import zarr.storage
from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem
from zarr.abc.store import Store
from zarr.core.buffer import Buffer

from tasks.store.faults import UnsupportedError, endure, full_disks_explained
from tasks.store.redaction import redact

T = TypeVar("T")


def _umask() -> int:
    # It can be read only by setting it.
    found = os.umask(0o077)
    os.umask(found)
    return found


_UMASK = _umask()


class UnwritableError(PermissionError):
    """No file can be made in a directory, whose path it has beside the system's own words."""

    def __str__(self) -> str:
        """Name the directory, and no file that nobody asked for."""
        return (
            f"folder: got {self.filename}, where no file can be made ({self.strerror}), expected "
            "one that can be written"
        )


class ClosedError(PermissionError):
    """A directory cannot be looked into; it has its path beside the system's own words."""

    def __str__(self) -> str:
        """Name the directory, and no file that nobody asked for."""
        return (
            f"folder: got {self.filename}, which cannot be looked into ({self.strerror}), expected "
            "one that can be read"
        )


class Folder:
    """A folder of files that are whole or absent.

    What may pass (throttling, timeouts, resets, cut answers) is tried again, see
    `tasks.store.faults`; what remains is a StoreError that names store and remedy.

    Args:
        url: A directory or any URL that fsspec opens. Credentials and endpoints come from the
            environment or fsspec's own configuration files, never from the URL.

    Raises:
        ValueError: The URL's protocol is unknown or needs a package that is missing, or it carries
            a password.
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
        """The URL, without a trailing slash; an absolute path without dots for a directory."""
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
        path = self._join(name)
        content: bytes = _endure(self._fs, path, lambda: self._fs.cat_file(path))
        return content

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Return the bytes of a file from `start` to before `stop`.

        Raises:
            FileNotFoundError: There is none.
        """
        path = self._join(name)
        content: bytes = _endure(
            self._fs, path, lambda: self._fs.cat_file(path, start=start, end=stop)
        )
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it; at no time can a part of it be seen."""
        path = self._join(name)
        if self.is_local:
            with full_disks_explained(path):
                _replace(path, content)
            return
        _endure(self._fs, path, lambda: self._fs.pipe_file(path, content))

    def take_in(self, name: str, source: Path) -> None:
        """Write a file as a copy of one of this machine, or replace it.

        A directory gets it piece by piece, and so does S3 from 100 MB on, in parts.
        """
        path = self._join(name)
        if self.is_local:
            with full_disks_explained(path), _written_beside(path, b"") as part:
                shutil.copyfile(source, part)
                _sync(Path(part))
                Path(part).replace(path)
            return
        _endure(self._fs, path, lambda: self._fs.put_file(str(source), path))

    def create(self, name: str, content: bytes) -> None:
        """Write a file that is not there yet.

        Where it is there with the same content, all is well: it may be our own, written by an
        attempt whose answer was lost.

        Raises:
            FileExistsError: It is there with other content. Of several that try at once one
                succeeds, if the store's guarantee is that, see `tasks.store.guarantees`.
        """
        try:
            # Enough for one writer where the store's own refusal is missing.
            if self.exists(name):
                raise FileExistsError(redact(self.url_of(name)))
            self.create_blindly(name, content)
        except FileExistsError:
            if self.read(name) != content:
                raise

    def create_blindly(self, name: str, content: bytes) -> None:
        """Create a file and leave it to the store to refuse one that is there.

        Raises:
            FileExistsError: It is there, and the store refuses.
        """
        path = self._join(name)
        if self.is_local:
            with full_disks_explained(path), _written_beside(path, content) as part:
                _link(part, path)
            return
        try:
            _endure(self._fs, path, lambda: self._fs.pipe_file(path, content, mode="create"))
        except UnsupportedError:
            self.write(name, content)

    def exists(self, name: str) -> bool:
        """Return whether there is a file or folder of this name."""
        return _kind(self._fs, self._join(name)) is not None

    def names(self, suffix: str = "") -> list[str]:
        """Return the sorted names of all files and folders directly inside that end so.

        Hidden ones are left out, unless `suffix` is their whole name.
        """
        try:
            entries = _endure(self._fs, self._path, lambda: self._fs.ls(self._path, detail=False))
        except FileNotFoundError:
            return []
        paths = (entry.strip("/") for entry in entries)
        # Some object stores list a folder in itself.
        names = (p.rpartition("/")[2] for p in paths if p != self._path.strip("/"))
        shown = (n for n in names if n[0] != "." or n == suffix)
        return sorted(n for n in shown if n.endswith(suffix))

    def versions(self) -> tuple[tuple[str, str], ...]:
        """Return the names of all files directly inside, with what changes when one is replaced."""
        try:
            entries = _endure(self._fs, self._path, lambda: self._fs.ls(self._path, detail=True))
        except FileNotFoundError:
            return ()
        return tuple(sorted((entry["name"], _version(entry)) for entry in entries))

    def version(self, name: str) -> str:
        """Return what changes when a file is replaced.

        Raises:
            FileNotFoundError: It is not there.
        """
        path = self._join(name)
        return _version(_endure(self._fs, path, lambda: self._fs.info(path)))

    def files(self, depth: int | None = None, *, links: bool = False) -> list[str]:
        """Return the sorted names of all files inside, at any depth.

        Args:
            depth: In a directory, of folders in folders that are looked into; all by default.
            links: In a directory, look into linked folders too, each folder once, by its own name
                before that of a link; and name links to what is not there.

        Raises:
            OSError: A folder inside cannot be listed.
        """
        if self.is_local:
            return sorted(self.walk(depth, links=links))
        prefix = f"{self._path}/"
        found = _endure(self._fs, self._path, lambda: self._fs.find(self._path))
        return sorted(path.removeprefix(prefix) for path in found if path.startswith(prefix))

    def walk(self, depth: int | None = None, *, links: bool = False) -> Iterator[str]:
        """Yield what `files` returns as it is found, of a directory."""
        found = _folders(self._path, links)
        for folder, folders, names in found:
            path = Path(self._path, folder)
            if depth is not None and len(Path(folder).parts) >= depth:
                folders.clear()
            for name in names:
                file = path / name
                if file.is_file() or (links and file.is_symlink() and not file.exists()):
                    yield f"{folder}/{name}" if folder else name

    def modified(self) -> dict[str, float]:
        """Return when each file inside, at any depth, was written or put there: POSIX seconds.

        Stores tell whole seconds.
        """
        if self.is_local:
            told = {name: _put_there(Path(self._path, name)) for name in self.walk(links=True)}
            return {name: seconds for name, seconds in told.items() if seconds is not None}
        prefix = f"{self._path}/"
        found = _endure(self._fs, self._path, lambda: self._fs.find(self._path, detail=True))
        return {
            path.removeprefix(prefix): _written(entry)
            for path, entry in found.items()
            if path.startswith(prefix)
        }

    def half_written(self) -> list[str]:
        """Return the names of files inside, at any depth, whose writer is at work or was killed."""
        return [name for name in self.files() if _HALF_WRITTEN.search(name)]

    def remove(self, name: str) -> None:
        """Remove a file; it is no error if there is none."""
        path = self._join(name)
        with suppress(FileNotFoundError):
            _endure(self._fs, path, lambda: self._fs.rm_file(path))

    def remove_all(self, name: str) -> None:
        """Remove a folder with all that is in it; it is no error if there is none."""
        path = self._join(name)
        with suppress(FileNotFoundError):
            _endure(self._fs, path, lambda: self._fs.rm(path, recursive=True))

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """Open a file for reading from any place."""
        path = self._join(name)
        with _endure(self._fs, path, lambda: self._fs.open(path, "rb")) as file:
            yield file

    def zarr_store(self, name: str) -> Store:
        """Return the place of a Zarr group inside."""
        path = self._join(name)
        if self.is_local:
            return _DirectoryStore(path)
        if isinstance(self._fs, AsyncFileSystem):
            # Zarr has an event loop of its own.
            fs = _file_system(_protocols(self._fs)[0], asynchronous=True)
            return zarr.storage.FsspecStore(fs, path=path)
        return zarr.storage.FsspecStore.from_url(self._url(path), storage_options=_OPTIONS)

    def _join(self, name: str) -> str:
        if not name or name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"name: got {name!r}, expected a path inside {self.url}")
        # That of the root of a machine ends in the slash.
        return f"{self._path.removesuffix('/')}/{name}"

    def _url(self, path: str) -> str:
        return path if self.is_local else str(self._fs.unstrip_protocol(path))


def split_url(url: str) -> tuple[Folder, str]:
    """Split the URL of a file into its folder and its name."""
    fs, path = _resolve(url)
    parent, _, name = path.rpartition("/")
    if "file" in _protocols(fs):
        return Folder(parent or "/"), name
    return Folder(str(fs.unstrip_protocol(parent))), name


def read_url(url: str) -> bytes:
    """Return the content of the file at a URL.

    Raises:
        FileNotFoundError: There is none.
    """
    folder, name = split_url(url)
    return folder.read(name)


class FilePlaces:
    """What is equal for URLs of one file, though links or mounts give its folder several paths."""

    def __init__(self) -> None:
        self._folders = dict[str, str]()

    def of(self, url: str) -> str:
        """Return the place of a file; its URL where that is a store's, or its folder is gone."""
        parent, mark, name = url.rpartition("/")
        if "://" in parent or not mark:
            return url
        if parent not in self._folders:
            try:
                self._folders[parent] = "{}:{}".format(*_identity(parent or "/"))
            except OSError:
                self._folders[parent] = parent
        return f"{self._folders[parent]}/{name}"


def is_file(url: str) -> bool:
    """Return whether there is a file at a URL."""
    return _kind(*_resolve(url)) == "file"


def nearest(url: str) -> str:
    """Name in brackets, for a message, what has almost the name of what is not there.

    Empty where nothing has, where it is there and only empty, and for stores, which would be asked
    for all that they hold.
    """
    beside, name = split_url(url)
    alike = list[str]()
    with suppress(OSError):
        names = beside.names() if beside.is_local else ()
        alike = [] if name in names else get_close_matches(name, names, 1, _ALIKE)
    if not alike:
        return ""
    # As it was given, but for what has no name, such as `photos/.`.
    given = url.rstrip("/")
    meant = given.removesuffix(name) + alike[0] if given.endswith(name) else beside.url_of(alike[0])
    return f" (did you mean {meant}?)"


def split_member(url: str, suffix: str) -> tuple[str, str]:
    """Split `FILE#MEMBER`, where FILE ends in a suffix; of other URLs the member is empty.

    A "#" elsewhere is a letter of a folder's name.
    """
    file, mark, member = url.rpartition(f"{suffix}#")
    return (f"{file}{suffix}", member) if mark else (url, "")


def sha256(content: bytes) -> str:
    """Return the SHA-256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


# From which on a name is taken for a mistyped one.
_ALIKE = 0.7
# Listings must show what other writers did since.
_OPTIONS: dict[str, Any] = {"use_listings_cache": False}
_EXPECTED = "a directory, s3://, gs://, memory:// or another one that needs no more than the URL"
# A directory may have any name; these are hardly meant for one.
_NO_SLASHES = re.compile(r"(s3a?|gc?s|abfss?|az|https?|memory):(?!//)", re.I)
# By protocol, the extra of this package that brings what it needs.
_EXTRAS = {"gs": "gcs", "gcs": "gcs"}
# Files of ours, and of Zarr's, that have no name yet.
_HALF_WRITTEN = re.compile(r"(?:^|/)\.part-[^/]*$|\.zarr/.*\.partial$")
# What file systems without hard links say.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def _resolve(url: str) -> tuple[AbstractFileSystem, str]:
    if "://" in url and urlsplit(url).password:
        raise ValueError(
            f"URL of {urlsplit(url).hostname}: got a password in it, expected none; "
            "give credentials in the environment"
        )
    protocol = url.split("://", 1)[0] if "://" in url else "file"
    _refuse_mistyped(protocol, url)
    try:
        fs = _file_system(protocol)
        path = str(fs._strip_protocol(url))
        if "file" not in _protocols(fs):
            return fs, path.rstrip("/")
        # One file has one path, since tables compare them; ".." goes as in a shell's cd, also
        # after a link.
        return fs, "/" + os.path.abspath(path).lstrip("/")  # noqa: PTH100 - Path keeps ".."
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        told = (
            f"`pip install -c constraints.txt '.[{extra}]'` in the clone" if extra else "install it"
        )
        raise ValueError(
            f"URL: got {protocol}://, expected a protocol whose package is installed; {told} "
            f"({error})"
        ) from error
    except ValueError:
        raise
    except Exception as error:
        # File systems inside others, zip:// and such, fail in many ways without an outer one.
        raise ValueError(
            f"URL: got the protocol {protocol!r}, expected {_EXPECTED} ({type(error).__name__})"
        ) from error


def _refuse_mistyped(protocol: str, url: str) -> None:
    """Refuse a protocol that there is not, and a directory that was meant for a store."""
    begun = _NO_SLASHES.match(url)
    if begun:
        meant = redact(f"{begun[1].lower()}://{url[begun.end() :].lstrip('/')}")
        raise ValueError(
            f"URL: got {begun[0]} without two slashes, expected {_EXPECTED} "
            f"(did you mean {meant}?); write ./ before a directory of such a name"
        )
    known = {*fsspec.available_protocols(), *fsspec.registry}
    if protocol not in known:
        alike = get_close_matches(protocol.lower(), known, 1, _ALIKE)
        hint = f" (did you mean {alike[0]}://?)" if alike else ""
        raise ValueError(f"URL: got the protocol {protocol!r}, expected {_EXPECTED}{hint}")


@cache
def _file_system(protocol: str, **options: Any) -> AbstractFileSystem:
    if protocol in {"s3", "s3a"}:
        from tasks.store.enduring_s3 import EnduringS3

        return EnduringS3(**_OPTIONS, **options)
    return fsspec.filesystem(protocol, **_OPTIONS, **options)


def _put_there(file: Path) -> float | None:
    """When a file was written, or moved or copied to where it is; None where it is not."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    # Copies may keep the time of the content, and none can set that of the status.
    return max(status.st_mtime, status.st_ctime)


def _written(entry: Mapping[str, Any]) -> float:
    """When a store says that a file was written; long ago where it does not."""
    marks = ("LastModified", "mtime", "updated", "created")
    told = next((entry[mark] for mark in marks if entry.get(mark)), 0.0)
    told = datetime.fromisoformat(told) if isinstance(told, str) else told
    return told.timestamp() if isinstance(told, datetime) else float(told)


def _version(entry: Mapping[str, Any]) -> str:
    marks = ("ETag", "etag", "mtime", "created", "size")
    return str([entry[mark] for mark in marks if mark in entry])


def _endure(fs: AbstractFileSystem, path: str, call: Callable[[], T]) -> T:
    """Do one operation on a path as `endure` does; asking again does not help a disk."""
    if "file" in _protocols(fs):
        return call()
    url = str(fs.unstrip_protocol(path))
    try:
        return endure(url, call)
    except FileNotFoundError:
        raise FileNotFoundError(redact(url)) from None


def _kind(fs: AbstractFileSystem, path: str) -> str | None:
    """`file`, `directory`, or None where there is nothing.

    The file systems' own exists() and isfile() take every fault for a no.
    """
    try:
        return str(_endure(fs, path, lambda: fs.info(path))["type"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise ClosedError(error.errno, error.strerror, str(Path(path).parent)) from error
    except OSError as error:
        # No file can have such a name.
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise


def _protocols(fs: AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _folders(root: str, links: bool) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield the folders under a directory as os.walk does, relative to it, see `Folder.files`."""

    def fail(error: OSError) -> None:
        raise error

    seen, waiting = set[tuple[int, int]](), [root]
    for start in waiting:
        linked = list[str]()
        # fsspec's own walk passes over directories that it cannot read.
        for folder, folders, names in os.walk(start, onerror=fail if Path(root).is_dir() else None):
            if links:
                if (place := _identity(folder)) in seen:
                    folders.clear()
                    continue
                seen.add(place)
            relative = folder[len(root) :].strip("/")
            yield relative, folders, names
            linked += (path for name in folders if (path := f"{folder}/{name}") and links)
        waiting += sorted(filter(os.path.islink, linked))


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116
    return status.st_dev, status.st_ino


@contextmanager
def _written_beside(path: str, content: bytes) -> Iterator[str]:
    """Give the path of a file with this content, on disk for good, next to `path`."""
    parent = Path(path).parent
    try:
        _make_directory(parent)
        handle, part = tempfile.mkstemp(prefix=".part-", dir=parent)
    except FileExistsError:
        number = errno.ENOTDIR
        raise UnwritableError(number, os.strerror(number), str(parent)) from None
    except (PermissionError, NotADirectoryError, FileNotFoundError) as error:
        raise UnwritableError(error.errno, error.strerror, str(parent)) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(part).chmod(0o666 & ~_UMASK)
        yield part
    finally:
        Path(part).unlink(missing_ok=True)
    _sync(parent)


def _make_directory(path: Path) -> None:
    """Make a directory and its parents, so that they too survive a power loss."""
    if path.is_dir():
        return
    _make_directory(path.parent)
    path.mkdir(exist_ok=True)
    _sync(path.parent)


class _DirectoryStore(zarr.storage.LocalStore):
    """Zarr's directory, whose files are on disk for good before a commit says that they are."""

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        path = str(self.root / key)
        with full_disks_explained(path):
            await asyncio.to_thread(_replace, path, value.to_bytes())


def _link(part: str, path: str) -> None:
    """Give a file its name, which nothing has yet, at once with its whole content."""
    try:
        # A link never replaces another file.
        os.link(part, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        Path(part).replace(path)


def _replace(path: str, content: bytes) -> None:
    with _written_beside(path, content) as part:
        Path(part).replace(path)


def _sync(path: Path) -> None:
    """Make the content of a file, or new names in a directory, survive a power loss."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
