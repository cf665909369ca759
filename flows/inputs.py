"""What a command is given -> whether it is there, before anything is started for it."""

from collections.abc import Callable, Mapping
from typing import Any

from flows.engines import read_engine
from tasks.arithmetic import name_arithmetic
from tasks.bundles import read_bundle
from tasks.listing import require_photos
from tasks.manifest_files import read_prompts, require_manifest, require_parquet, require_texts
from tasks.run_tables import find_run
from tasks.runs import read_run_values, require_run_name
from tasks.storage import Folder

# Arguments that mean something by themselves, and what refuses those that do not.
_CHECKS: Mapping[str, Callable[[str], object]] = {
    "arithmetic": name_arithmetic,
    "models": read_bundle,
    "engine": read_engine,
    "photos": require_photos,
}
# Flows that begin a run.
_MAKERS = ("edit-dataset", "run-pipeline")
# Flows that begin no workspace.
_READERS = ("invert-faces", "edit-dataset", "tune-strengths", "evaluate-run", "verify-run")


def check_inputs(flow: str, given: Mapping[str, Any]) -> None:
    """Refuse what is not there: a flow would find out, but after the seconds that a server takes.

    Args:
        flow: Name of a flow.
        given: Its arguments, whose names mean the same in all of them.

    Raises:
        ValueError: What names an arithmetic, a bundle, an engine, photographs, a table, a run or a
            workspace to read from names none; a new run's name is a path.
    """
    if flow in _MAKERS:
        require_run_name(given.get("run", ""))
    for name, check in _CHECKS.items():
        if given.get(name):
            check(given[name])
    if given.get("manifest"):
        require_manifest(given["manifest"])
    elif given.get("prompts"):
        read_prompts(given["prompts"])
    require_texts(given.get("target") or ())
    if flow == "tune-strengths":
        require_parquet(given["destination"])
    workspace, run = given.get("workspace", ""), given.get("run", "")
    # A run's URL says all.
    if flow in _READERS and "/" not in run and not Folder(workspace).names():
        raise ValueError(
            f"workspace: got {workspace}, which is not there or empty; "
            f"`styleclip align PHOTOS {workspace}` begins one"
        )
    if run and not given.get("manifest") and not given.get("prompts"):
        read_run_values(Folder(find_run(workspace, run)))
