"""The command `styleclip`. Every command is a flow or a function; their signatures are its options.

What a command needs is imported when it is called: torch, transformers and Prefect take seconds.
"""

import json
import os
import re
import sys
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from inspect import BoundArguments
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from flows.commands import COMMANDS, GROUPS
from flows.environment import samples_shown, set_defaults, set_metrics_file
from flows.failures import StageCancelled
from flows.help_examples import epilogue
from flows.interruption import (
    INTERRUPTED,
    end_at_once_when_interrupted,
    end_soon_when_interrupted,
    keep_signals,
    leave,
)
from flows.mistyped import FLAGS, HELP, USER_ERROR, explain, refuse_unknown
from flows.options import EVERYWHERE
from flows.progress import PipedConsole, UnreadError, console, one_line, printable, say
from flows.signatures import docstring, given_texts, stand_in
from flows.summary import InputCheck, Summary
from manifests.schemas import ALL_FAILURES, FACE_FAILURES, RESULT_FAILURES
from tasks.provenance import CODE_VERSION

set_defaults()

STAGE_FAILED = 1
# As of a command that SIGPIPE ends: whoever reads has seen enough, as `head` does.
UNREAD = 141
# What is told without a traceback.
_TOLD = (ValueError, OSError, RuntimeError)
# Facts that are read without their names.
_IN_A_LINE = 4
# An argument, or an option that takes any text, of zsh's completion: nothing says what fills it.
_UNFILLED = re.compile(r"""^(\s+(['"])(?:\d+:(?! :->).*|\*-.*\]:[a-z0-9-]+))(?=\2( \\)?$)""", re.M)
# What Prefect says of a server, and what to do about it.
_UNREACHED = (
    "Failed to reach API at ",
    "; PREFECT_API_URL names that server: start it, or unset that to use the embedded one",
)


def _default_worth_telling(default: object) -> str | None:
    """Return how `--help` names a default, None where it is nothing: a number always is."""
    is_number = isinstance(default, (int, float)) and default is not False
    return str(default) if default or is_number else None


class _CommandLine(App):
    """Commands most of whose arguments are paths."""

    def generate_completion(self, **how: Any) -> str:
        """Return what teaches a shell the options, and to complete files besides."""
        script = super().generate_completion(**how)
        script = script.replace("\ncomplete -F ", "\ncomplete -o bashdefault -o default -F ")
        return _UNFILLED.sub(r"\1:_files", script)


def _make_app(helped: str = "") -> App:
    """Make the command line; of the command `helped` it can show the help alone."""
    app = _CommandLine(
        name="styleclip",
        help="Edit large sets of face photographs by text with StyleCLIP.",
        help_epilogue=epilogue(""),
        version=CODE_VERSION,
        console=PipedConsole(),
        error_formatter=explain,
        result_action="return_value",
        # Neither has a list an --empty-... beside it, nor a switch that is off a --no-...
        default_parameter=Parameter(
            negative_iterable=(), negative_bool=(), show_default=_default_worth_telling
        ),
    )
    groups = {
        name: App(
            name=name,
            help=text,
            help_epilogue=epilogue(name),
            result_action="return_value",
            sort_key=len(COMMANDS) + place,
        )
        for place, (name, text) in enumerate(GROUPS.items())
    }
    for place, (words, path) in enumerate(COMMANDS.items()):
        group, _, name = words.rpartition(" ")
        chosen = groups[group] if group else app
        chosen.command(
            stand_in(path) if words == helped else path,
            name=name,
            help=docstring(path),
            help_epilogue=epilogue(words),
            sort_key=place,
        )
    for inner in groups.values():
        app.command(inner)
    app.register_install_completion_command()
    app.meta.default(_launch)
    return app


def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    json_output: Annotated[bool, Parameter(name="--json", group=EVERYWHERE)] = False,
    trace: Annotated[bool, Parameter(group=EVERYWHERE)] = False,
    server: Annotated[bool, Parameter(negative="--no-server", group=EVERYWHERE)] = True,
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
    try:
        if metrics:
            set_metrics_file(str(Path(metrics).resolve()))
        result = _run([*_with_statuses(tokens)], server, trace)
    except KeyboardInterrupt:
        return INTERRUPTED
    except StageCancelled as error:
        from flows.cancelling import mark_cancelled

        mark_cancelled(error)
        say(str(error))
        return INTERRUPTED
    except UnreadError:
        raise
    except _TOLD as error:
        return _tell(error, trace)
    if isinstance(result, Summary):
        line = printable(result.line)
        facts = asdict(result).items()
        told = {name: value for name, value in facts if value != "" and value is not False}
        print(json.dumps(told) if json_output else line)  # noqa: T201
        failed = USER_ERROR if isinstance(result, InputCheck) else STAGE_FAILED
        return failed if result.failed else 0
    if result is not None:
        _show(result, json_output)
    return 0


app = _make_app()


def _tell(error: Exception, trace: bool) -> int:
    """Tell an error, and return the status to exit with."""
    from tasks.store.faults import NoBucketError
    from tasks.store.redaction import redact

    if trace:
        traceback.print_exception(error)
    console.print("[bold red]error[/]", end=": ")
    told = redact(str(error)) or type(error).__name__
    say(told.rstrip(".") + _UNREACHED[1] if told.startswith(_UNREACHED[0]) else told)
    failed = isinstance(error, RuntimeError) and not isinstance(error, NoBucketError)
    return STAGE_FAILED if failed else USER_ERROR


def _run(tokens: list[str], server: bool, trace: bool) -> Any:
    """Run a command; one worker of several needs no server."""
    with console.status("starting"):
        command, given, _ = app.parse_args(tokens)
    # What needs neither Prefect nor networks does not wait for them: they take seconds to import.
    if "prefect" not in sys.modules:
        return command(*given.args, **given.kwargs)
    with console.status("starting"):
        from prefect import Flow

        from flows.choices import check_choices
        from flows.embedded_server import end_server_with_command
        from flows.logs import leave_errors_to_command, make_logs_plain
        from tasks.bundles import DEMO_LIMITS, DEMO_MODELS
    make_logs_plain()
    if not trace:
        leave_errors_to_command()
    if isinstance(command, Flow):
        whole = _with_defaults(given)
        has_server = server and not whole.get("worker")
        check_choices(whole, has_server)
        if has_server:
            samples_shown()
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


def _refuse_credentials(tokens: Sequence[str]) -> None:
    """Stop before Prefect stores the parameters of a flow."""
    from tasks.store.redaction import redact

    for token in tokens:
        if redact(token) != token:
            raise ValueError(
                f"argument: got {redact(token)!r} with credentials in it, expected none; give them "
                "in the environment, and signed URLs of photographs in a listing"
            )


def _show(result: Sequence[Mapping[str, str]], as_json: bool) -> None:
    """Print what a command lists: JSON, a line for each of few facts, or a paragraph."""
    shown = [{name: one_line(text) for name, text in one.items() if text} for one in result]
    if all(len(one) <= _IN_A_LINE for one in result):
        told = "\n".join("  ".join(one.values()) for one in shown)
    else:
        told = "\n\n".join("\n".join(f"{n}: {v}" for n, v in one.items()) for one in shown)
    print(json.dumps(result) if as_json else told)  # noqa: T201


def start(tokens: Sequence[str]) -> int:
    """Run a command line and return its status, or exit where it names what there is not."""
    command, given = refuse_unknown(tokens)
    if command and {*HELP} & {*given}:
        return _make_app(helped=command).meta([*tokens]) or 0
    try:
        _refuse_credentials(tokens)
        if command:
            from flows.inputs import check_inputs

            own = [token for token in _with_statuses(given) if token not in FLAGS]
            check_inputs(command, given_texts(COMMANDS[command], own))
    except _TOLD as error:
        return _tell(error, "--trace" in tokens)
    status: int = app.meta([*tokens])
    return status


def main() -> None:
    """Run the command line and exit with its status."""
    end_soon_when_interrupted()
    try:
        status = start(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        # While a command's modules were imported.
        leave()
    except BrokenPipeError:
        # Nor may Python's own end write more.
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        status = UNREAD
    if status == INTERRUPTED:
        leave()
    end_at_once_when_interrupted(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
