"""What people are told of the store that a flow writes to."""

from functools import cache

from flows.progress import say
from tasks.places import WorkspaceError
from tasks.store.folders import Folder
from tasks.store.guarantees import probe_store


def check_store(workspace: str) -> None:
    """Try the store of a workspace, once a process, and say what it guarantees.

    Of a folder of this machine that is only said where something is missing.

    Raises:
        StoreError: It cannot be read or written.
        WorkspaceError: It is no folder, or none that this user may write.
    """
    try:
        _announce(Folder(workspace).url)
    except (PermissionError, NotADirectoryError, FileNotFoundError) as error:
        raise WorkspaceError(
            f"workspace: got {workspace}, where no file can be made ({error.strerror or error}); "
            "expected a folder that can be written, or a URL"
        ) from error


@cache
def _announce(url: str) -> None:
    guarantee = probe_store(url)
    if not (guarantee.several_writers and Folder(url).is_local):
        say(guarantee.line)
