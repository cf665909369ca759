"""What a command is given -> whether it is there, before anything is started for it."""

from collections.abc import Callable, Mapping
from typing import Any

from flows.engines import read_engine
from tasks.arithmetic import name_arithmetic
from tasks.listing import require_photos
from tasks.manifest_files import read_prompts, require_table
from tasks.models import read_bundle
from tasks.run_tables import find_run
from tasks.runs import read_run_values
from tasks.storage import Folder

# Arguments that mean something by themselves, and what refuses those that do not.
_CHECKS: Mapping[str, Callable[[str], object]] = {
    "arithmetic": name_arithmetic,
    "models": read_bundle,
    "engine": read_engine,
    "photos": require_photos,
}


def check_inputs(given: Mapping[str, Any]) -> None:
    """Refuse what is not there: a flow would find out, but after the seconds that a server takes.

    Args:
        given: Arguments of a flow, whose names mean the same in all of them.

    Raises:
        ValueError: What names an arithmetic, a bundle, an engine, photographs, a table or a run
            names none.
    """
    for name, check in _CHECKS.items():
        if given.get(name):
            check(given[name])
    if given.get("manifest"):
        require_table(given["manifest"])
    elif given.get("prompts"):
        read_prompts(given["prompts"])
    elif given.get("run"):
        read_run_values(Folder(find_run(given["workspace"], given["run"])))
