"""What people are told of the store that a flow writes to."""

from functools import cache

from flows.progress import say
from tasks.guarantees import probe_store
from tasks.storage import Folder


def check_store(workspace: str) -> None:
    """Try the store of a workspace, and print what it guarantees; both once a process.

    Raises:
        StoreError: It cannot be read or written.
        ValueError: It is no folder, or none that this user may write.
    """
    try:
        _announce(Folder(workspace).url)
    except (PermissionError, NotADirectoryError, FileNotFoundError) as error:
        raise ValueError(
            f"workspace: got {workspace}, where no file can be made ({error.strerror or error}); "
            "expected a folder that can be written, or a URL"
        ) from error


@cache
def _announce(url: str) -> None:
    say(probe_store(url).line)
