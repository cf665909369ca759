"""What a flow is told to do -> whether it means something, before any work for it."""

from collections.abc import Mapping
from typing import Any

from flows.engines import read_engine, require_threads
from tasks.arithmetic import name_arithmetic
from tasks.manifest_files import require_asked
from tasks.models import named_device
from tasks.run_tables import find_judged_run
from tasks.runs import read_run_values, require_run_name
from tasks.store.folders import Folder


def check_choices(given: Mapping[str, Any], has_server: bool) -> None:
    """Refuse what a flow would refuse too, but after the seconds that a server takes, or some work.

    Args:
        given: Arguments of a flow, whose names mean the same in all of them.
        has_server: Whether a server will know of the flow.

    Raises:
        ValueError: What names an arithmetic, an engine or a run to read names none; the engine
            needs a server; the device is not there; a new run's name is a path; a prompt is a
            table.
    """
    if "arithmetic" in given:
        name_arithmetic(given["arithmetic"])
    if "engine" in given:
        engine = read_engine(given["engine"])
        if not has_server:
            require_threads(engine)
    if "device" in given:
        named_device(given["device"])
    if "target" in given:
        require_asked(given.get("prompts", ""), given["target"] or ())
    if "run" not in given:
        return
    if "manifest" in given or "prompts" in given:
        require_run_name(given["run"])
    else:
        place = find_judged_run(given["workspace"], given["run"], given.get("others") or ())
        read_run_values(Folder(place))
