"""What a command is given to read -> whether it is there, before networks and Prefect are imported.

Those take seconds; what refuses a path takes none.
"""

from collections.abc import Callable, Mapping

from tasks.bundles import read_bundle
from tasks.manifest_files import read_prompts, require_manifest, require_parquet
from tasks.photos.listing import require_photos
from tasks.places import WorkspaceError
from tasks.store.folders import Folder, is_file, nearest

# Arguments that mean the same in all commands, and what refuses those that name nothing.
_CHECKS: Mapping[str, Callable[[str], object]] = {
    "models": read_bundle,
    "photos": require_photos,
    "prompts": read_prompts,
}
# Begins a bundle.
_MAKER = "weights add"
# These read a file.
_CONVERTERS = ("latents import", "latents import-directions", "weights convert")
# These begin no workspace.
_READERS = (
    *("invert", "edit", "tune", "evaluate", "verify", "doctor", "faces", "forget"),
    *("manifest build", "manifest validate", "latents export"),
)


def check_inputs(command: str, given: Mapping[str, str]) -> None:
    """Refuse what is not there to read.

    Args:
        command: Words of a command, such as `edit`.
        given: Its texts, see `flows.signatures.given_texts`.

    Raises:
        ValueError: What names a bundle, photographs or a table to read from names none, or a
            table to write is none.
        WorkspaceError: There is no such workspace to read from.
    """
    # A worker of several reads what another machine prepared.
    if given.get("worker"):
        return
    for name, check in _CHECKS.items():
        if given.get(name) and (name, command) != ("models", _MAKER):
            check(given[name])
    for name in ("source", "names"):
        file = given.get(name, "")
        if command in _CONVERTERS and file and not is_file(file):
            raise ValueError(f"{name}: got {file}, which is no file{nearest(file)}, expected one")
    if command == "edit" and given.get("manifest"):
        require_manifest(given["manifest"])
    if command in ("tune", "manifest build") and given.get("destination"):
        require_parquet(given["destination"])
    workspace, run = given.get("workspace", ""), given.get("run", "")
    # A run's URL says all.
    if workspace and command in _READERS and "/" not in run and not Folder(workspace).names():
        raise WorkspaceError(
            f"workspace: got {workspace}, which is not there or empty{nearest(workspace)}; "
            f"`styleclip align PHOTOS {workspace}` begins one"
        )
