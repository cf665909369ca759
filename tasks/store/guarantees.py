"""What a store guarantees to its writers: found out once, by trying it."""

import uuid
from dataclasses import dataclass
from functools import cache

from tasks.store.folders import Folder


@dataclass(frozen=True)
class Guarantee:
    """What a store was seen to do.

    Attributes:
        url: Of the folder that was tried.
        exclusive: It refuses to create a file that is there.
        immediate: A file is read and listed as soon as it is written.
    """

    url: str
    exclusive: bool
    immediate: bool

    @property
    def several_writers(self) -> bool:
        """Whether several processes may work on one run."""
        return self.exclusive and self.immediate

    @property
    def line(self) -> str:
        """What it means, for people."""
        if self.several_writers:
            return f"store {self.url}: creates are exclusive; several writers are safe"
        missing = [] if self.exclusive else ["does not refuse to create a file that is there"]
        missing += [] if self.immediate else ["shows files only some time after they are written"]
        return (
            f"warning: store {self.url} {' and '.join(missing)}: let only one process at a time "
            "write there. styleclip looks whether a file is there before it creates it, which is "
            "enough for one process, and cannot tell two at the same moment apart"
        )


@cache
def probe_store(url: str) -> Guarantee:
    """Find out what a store guarantees, once a process, with a hidden file that is removed again.

    Raises:
        StoreError: The store cannot be read or written.
    """
    folder = Folder(url)
    name = f".probe-{uuid.uuid4().hex}"
    exclusive = _creates_exclusively(folder, name)
    immediate = folder.names(name) == [name]
    folder.remove(name)
    return Guarantee(folder.url, exclusive, immediate and not folder.exists(name))


def _creates_exclusively(folder: Folder, name: str) -> bool:
    try:
        folder.create_blindly(name, b"first")
        folder.create_blindly(name, b"second")
    except FileExistsError:
        return folder.read(name) == b"first"
    return False
