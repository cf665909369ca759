"""The command `styleclip`. Every command is a flow or a function; their signatures are its options.

What a command needs is imported when it is called: torch, transformers and Prefect take seconds.
"""

import ast
import json
import os
import re
import sys
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from difflib import SequenceMatcher, get_close_matches
from functools import cache
from inspect import BoundArguments
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from cyclopts import (
    App,
    CycloptsError,
    MissingArgumentError,
    Parameter,
    UnknownOptionError,
    UnusedCliTokensError,
)
from rich.markup import escape

from flows.environment import set_defaults, set_metrics_file
from flows.examples import epilogue
from flows.failures import StageCancelled
from flows.interruption import INTERRUPTED, end_soon_when_interrupted, keep_signals, leave
from flows.options import EVERYWHERE
from flows.progress import console, printable, say
from flows.summary import Summary
from manifests.schemas import ALL_FAILURES, FACE_FAILURES, RESULT_FAILURES
from tasks.provenance import CODE_VERSION

set_defaults()

USER_ERROR, STAGE_FAILED = 2, 1
# From which on an option is taken for a mistyped one.
_ALIKE = 0.7
# Facts that are read without their names.
_IN_A_LINE = 3
# What Prefect says of a server, and what to do about it.
_UNREACHED = (
    "Failed to reach API at ",
    "; PREFECT_API_URL names that server: start it, or unset that to use the embedded one",
)
# Before every command.
_GLOBAL = ("--json", "--trace", "--server", "--no-server", "--metrics", "--version")
_ANYWHERE = ("--help", "-h", "--install-completion")
# Words for what no option says.
_STRENGTHS = ("--alpha", "--alphas", "--strength", "--beta", "--method", "--prompt", "--target")

_COMMANDS = {
    "demo": "flows.demo:run_demo",
    "run": "flows.pipeline:run_pipeline",
    "align": "flows.align:align_photos",
    "invert": "flows.invert:invert_faces",
    "relevance": "flows.relevance:build_relevance",
    "train-mapper": "flows.mappers:train_mappers",
    "tune": "flows.tune:tune_strengths",
    "edit": "flows.edit:edit_dataset",
    "evaluate": "flows.evaluate:evaluate_run",
    "verify": "flows.verify:verify_run",
    "doctor": "flows.doctor:examine_assets",
    "faces": "flows.faces:list_faces",
    "forget": "flows.forget:forget_image",
    "deploy": "flows.deploy:deploy_flows",
    "manifest build": "flows.tables:build_edit_manifest",
    "manifest validate": "flows.tables:validate_edit_manifest",
    "weights list": "flows.bundles:list_weights",
    "weights add": "flows.weights:add_weights",
    "weights verify": "flows.weights:verify_weights",
    "weights convert": "flows.weights:convert_weights",
    "latents import": "flows.interchange:import_latents",
    "latents export": "flows.interchange:export_latents",
    "latents import-directions": "flows.interchange:import_directions",
    "latents export-directions": "flows.interchange:export_directions",
}
_GROUPS = {
    "manifest": "Build and check manifests.",
    "weights": "Bundles of weights.",
    "latents": "Latents from and for other tools.",
}


@cache
def _docstrings(module: str) -> dict[str, str]:
    """Return the docstrings of the functions of `flows.module`, read from its source."""
    source = Path(__file__).with_name(f"{module.removeprefix('flows.')}.py")
    tree = ast.parse(source.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {function.name: ast.get_docstring(function) or "" for function in functions}


def _explain(error: CycloptsError) -> str:
    """Say what is wrong with a command's arguments, and where to look."""
    words = " ".join(["styleclip", *(error.command_chain or ())])
    # Of a list that goes on, the dots stay.
    told, missing = re.sub(r"(?<!\.)\.$", "", str(error)), error.argument
    if isinstance(error, MissingArgumentError) and missing and not error.tokens_so_far:
        is_option = missing.index is None
        name = missing.name if is_option else missing.name.removeprefix("--").upper()
        told = f"got {name} without a value" if is_option else f"got no {name}"
    if isinstance(error, UnusedCliTokensError):
        told = _explain_surplus(error)
    # Cyclopts finds any two words of some equal letters alike.
    alike = re.search(r" Did you mean --(\S+)\?$", told)
    if isinstance(error, UnknownOptionError) and alike:
        given = error.token.keyword or error.token.value
        if SequenceMatcher(a=given.strip("-"), b=alike[1]).ratio() < _ALIKE:
            told = told.removesuffix(f".{alike[0]}")
    if isinstance(error, UnknownOptionError) and error.command_chain in (("edit",), ("run",)):
        given = error.token.keyword or error.token.value
        if given in _STRENGTHS:
            told += "; methods, prompts and strengths are columns of the table"
    return _told(told, words)


def _told(mistake: str, words: str) -> str:
    return (
        f"[bold red]error[/]: {escape(mistake)}; `{words} --help` shows its arguments and examples"
    )


def _refuse_unknown(tokens: Sequence[str]) -> None:
    """Tell a command that there is not; Cyclopts would import all that there are to do so."""
    begun = ""
    for word in tokens:
        is_option = word.startswith("-")
        own = [name.removeprefix(begun) for name in _COMMANDS if name.startswith(begun)]
        known = [*_GLOBAL] if is_option else [*dict.fromkeys(name.split()[0] for name in own)]
        if not begun and word in _GROUPS:
            begun = f"{word} "
            continue
        if word in known or word in _ANYWHERE:
            return
        what = "before the command" if is_option else "which is no command"
        alike = get_close_matches(word, known, 1)
        hint = f" (did you mean {alike[0]}?)" if alike else ""
        told = f"got {begun}{word}, {what}, expected one of {', '.join(known)}{hint}"
        console.print(_told(told, f"styleclip {begun}".rstrip()))
        sys.exit(USER_ERROR)


def _explain_surplus(error: UnusedCliTokensError) -> str:
    surplus = [*(error.unused_tokens or ())]
    given = [*(error.root_input_tokens or ())]
    place = given.index(surplus[0]) if surplus and surplus[0] in given else 0
    if given[:place][-2:] == ["--retry-failed", ALL_FAILURES]:
        failures = FACE_FAILURES if error.command_chain == ("align",) else RESULT_FAILURES
        return f"--retry-failed: got {surplus[0]}, expected some of {', '.join(failures)}"
    return f"got {' '.join(surplus)}, which is more than this command takes"


def _make_app() -> App:
    app = App(
        name="styleclip",
        help="Edit large sets of face photographs by text with StyleCLIP.",
        help_epilogue=epilogue(""),
        version=CODE_VERSION,
        error_formatter=_explain,
        result_action="return_value",
        # A list has no --empty-... beside it.
        default_parameter=Parameter(negative_iterable=()),
    )
    groups = {
        name: App(name=name, help=text, help_epilogue=epilogue(name), result_action="return_value")
        for name, text in _GROUPS.items()
    }
    for words, path in _COMMANDS.items():
        group, _, name = words.rpartition(" ")
        chosen = groups[group] if group else app
        module, function = path.split(":")
        text = _docstrings(module)[function]
        chosen.command(path, name=name, help=text, help_epilogue=epilogue(words))
    for inner in groups.values():
        app.command(inner)
    app.register_install_completion_command()
    return app


app = _make_app()


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    json_output: Annotated[bool, Parameter(name="--json", negative=(), group=EVERYWHERE)] = False,
    trace: Annotated[bool, Parameter(negative=(), group=EVERYWHERE)] = False,
    server: Annotated[bool, Parameter(group=EVERYWHERE)] = True,
    metrics: Annotated[str, Parameter(group=EVERYWHERE)] = "",
) -> int:
    """Run a command.

    Args:
        tokens: The command and its arguments.
        json_output: Print the result as one line of JSON.
        trace: Show where in the code an error arose.
        server: Let a Prefect server know of the run, the embedded one where none is configured.
        metrics: File to append a line of JSON to for every shard, see docs/operating.md.
    """
    if not tokens:
        app.meta(["--help"])
        return 0
    from tasks.redaction import redact

    if metrics:
        set_metrics_file(str(Path(metrics).resolve()))
    try:
        _refuse_credentials(tokens)
        _refuse_unknown(tokens)
        result = _run([*_with_statuses(tokens)], server, trace)
    except KeyboardInterrupt:
        return INTERRUPTED
    except StageCancelled as error:
        from flows.cancelling import mark_cancelled

        mark_cancelled(error)
        say(str(error))
        return INTERRUPTED
    except (ValueError, OSError, RuntimeError) as error:
        if trace:
            traceback.print_exc()
        console.print("[bold red]error[/]", end=": ")
        told = redact(str(error)) or type(error).__name__
        say(told.rstrip(".") + _UNREACHED[1] if told.startswith(_UNREACHED[0]) else told)
        return STAGE_FAILED if isinstance(error, RuntimeError) else USER_ERROR
    if isinstance(result, Summary):
        line = printable(result.line)
        print(json.dumps(asdict(result)) if json_output else line)  # noqa: T201
        return 0 if not result.failed else STAGE_FAILED
    if result is not None:
        _show(result, json_output)
    return 0


def _run(tokens: list[str], server: bool, trace: bool) -> Any:
    """Run a command; one worker of several needs no server."""
    with console.status("starting"):
        command, given, _ = app.parse_args(tokens)
    # What needs neither Prefect nor networks does not wait for them: they take seconds to import.
    if "prefect" not in sys.modules:
        return command(*given.args, **given.kwargs)
    with console.status("starting"):
        from prefect import Flow

        from flows.embedded_server import end_server_with_command
        from flows.inputs import check_inputs
        from flows.logs import leave_errors_to_command, make_logs_plain
        from tasks.bundles import DEMO_LIMITS, DEMO_MODELS
    make_logs_plain()
    if not trace:
        leave_errors_to_command()
    if isinstance(command, Flow):
        whole = _with_defaults(given)
        has_server = server and not whole.get("worker")
        if has_server:
            check_inputs(command.name, whole)
        if whole.get("models") == DEMO_MODELS:
            say(f"models: those of the demo, which {DEMO_LIMITS}; --models names others")
        if has_server:
            end_server_with_command()
            keep_signals()
        else:
            command = command.fn
    return command(*given.args, **given.kwargs)


def _with_defaults(given: BoundArguments) -> dict[str, Any]:
    whole = BoundArguments(given.signature, OrderedDict(given.arguments))
    whole.apply_defaults()
    return dict(whole.arguments)


def _with_statuses(tokens: Sequence[str]) -> Iterator[str]:
    """Let `--retry-failed` stand alone, for all statuses, or be followed by some."""
    named = {ALL_FAILURES, *RESULT_FAILURES, *FACE_FAILURES}
    for word, following in pairwise([*tokens, ""]):
        yield word
        if word == "--retry-failed" and not set(following.split(",")) & named:
            yield ALL_FAILURES


def _refuse_credentials(tokens: tuple[str, ...]) -> None:
    """Stop before Prefect stores the parameters of a flow."""
    from tasks.redaction import redact

    for token in tokens:
        if redact(token) != token:
            raise ValueError(
                f"argument: got {redact(token)!r} with credentials in it, expected none; give them "
                "in the environment, and signed URLs of photographs in a listing"
            )


def _show(result: Sequence[Mapping[str, str]], as_json: bool) -> None:
    """Print what a command lists: JSON, a line for each of few facts, or a paragraph."""
    if all(len(one) <= _IN_A_LINE for one in result):
        told = "\n".join("  ".join(one.values()) for one in result)
    else:
        told = "\n\n".join("\n".join(f"{n}: {v}" for n, v in one.items() if v) for one in result)
    print(json.dumps(result) if as_json else printable(told))  # noqa: T201


def main() -> None:
    """Run the command line and exit with its status."""
    end_soon_when_interrupted()
    try:
        status = app.meta()
    except KeyboardInterrupt:
        # While a command's modules were imported.
        leave()
    except BrokenPipeError:
        # Whoever reads has seen enough, as `head` does; nor may Python's own end write more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = STAGE_FAILED
    if status == INTERRUPTED:
        leave()
    sys.exit(status)


if __name__ == "__main__":
    main()
