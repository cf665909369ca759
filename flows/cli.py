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
from difflib import get_close_matches
from inspect import BoundArguments
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from cyclopts import (
    App,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    Parameter,
    UnusedCliTokensError,
)
from rich.markup import escape

from flows.environment import samples_shown, set_defaults, set_metrics_file
from flows.failures import StageCancelled
from flows.help_examples import epilogue
from flows.interruption import INTERRUPTED, end_soon_when_interrupted, keep_signals, leave
from flows.options import EVERYWHERE
from flows.progress import console, printable, say
from flows.signatures import docstring, given_texts, options
from flows.summary import Summary
from manifests.schemas import ALL_FAILURES, FACE_FAILURES, RESULT_FAILURES
from tasks.provenance import CODE_VERSION

set_defaults()

USER_ERROR, STAGE_FAILED = 2, 1
# Several numbers where one is asked for.
_SEVERAL = re.compile(r"\d[,;]\s*\d")
# What is told without a traceback.
_TOLD = (ValueError, OSError, RuntimeError)
# From which on an option is taken for a mistyped one.
_ALIKE = 0.65
# Facts that are read without their names.
_IN_A_LINE = 4
# What Prefect says of a server, and what to do about it.
_UNREACHED = (
    "Failed to reach API at ",
    "; PREFECT_API_URL names that server: start it, or unset that to use the embedded one",
)
# Before every command.
_FLAGS = ("--json", "--trace", "--server", "--no-server", "--version")
_GLOBAL = (*_FLAGS, "--metrics")
_ANYWHERE = ("--help", "-h", "--install-completion")
# Options that people try and that are columns of the manifest.
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
    "manifest build": "flows.manifest_commands:build_edit_manifest",
    "manifest validate": "flows.manifest_commands:validate_edit_manifest",
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
    if isinstance(error, CoercionError) and _SEVERAL.search(told):
        told += "; give an option once for each value, as in --alpha 2 --alpha 4"
    return _told(told, words)


def _told(mistake: str, words: str) -> str:
    return (
        f"[bold red]error[/]: {escape(mistake)}; `{words} --help` shows its arguments and examples"
    )


def refuse_unknown(tokens: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Tell a command or an option that there is not; Cyclopts imports what it looks at.

    Returns:
        The words of the command and what follows them; no words where help is asked for.
    """
    begun = ""
    for place, word in enumerate(tokens):
        if place and tokens[place - 1] == "--metrics":
            continue
        is_option = word.startswith("-")
        own = [name.removeprefix(begun) for name in _COMMANDS if name.startswith(begun)]
        known = [*_GLOBAL] if is_option else [*dict.fromkeys(name.split()[0] for name in own)]
        if not begun and word in _GROUPS:
            begun = f"{word} "
            continue
        if f"{begun}{word}" in _COMMANDS:
            rest = tokens[place + 1 :]
            _refuse_unknown_options(f"{begun}{word}", rest)
            return ("", ()) if set(_ANYWHERE) & set(rest) else (f"{begun}{word}", rest)
        if word in _ANYWHERE:
            break
        if word.partition("=")[0] in known:
            continue
        what = "before the command" if is_option else "which is no command"
        told = f"got {begun}{word}, {what}, expected one of {', '.join(known)}"
        _refuse(told, word, known, f"styleclip {begun}".rstrip())
    return "", ()


def _refuse_unknown_options(command: str, tokens: Sequence[str]) -> None:
    known = [*options(_COMMANDS[command]), *_GLOBAL]
    for token in tokens:
        word = token.partition("=")[0]
        if word == "--" or word in _ANYWHERE:
            return
        name = word.replace("_", "-")
        if not word.startswith("--") or name in known:
            continue
        told = f"got {word}, which {command} does not take"
        if word in _STRENGTHS and command in ("edit", "run"):
            told += "; methods, prompts and strengths are columns of the table"
        _refuse(told, word, known, f"styleclip {command}")


def _refuse(mistake: str, word: str, known: Sequence[str], words: str) -> None:
    alike = get_close_matches(word, known, 1, _ALIKE)
    hint = f" (did you mean {alike[0]}?)" if alike else ""
    console.print(_told(mistake + hint, words))
    sys.exit(USER_ERROR)


def _explain_surplus(error: UnusedCliTokensError) -> str:
    surplus = [*(error.unused_tokens or ())]
    given = [*(error.root_input_tokens or ())]
    place = given.index(surplus[0]) if surplus and surplus[0] in given else 0
    if given[:place][-2:] == ["--retry-failed", ALL_FAILURES]:
        failures = FACE_FAILURES if error.command_chain == ("align",) else RESULT_FAILURES
        return f"--retry-failed: got {surplus[0]}, expected some of {', '.join(failures)}"
    told = f"got {' '.join(surplus)}, which is more than this command takes"
    is_number = bool(surplus) and re.fullmatch(r"[\d.]+", surplus[0])
    if is_number:
        return f"{told}; an option takes one value, as in --alpha 2 --alpha 4"
    if error.command_chain in (("align",), ("run",)):
        return f"{told}; a pattern stands in quotes, as in 'photos/*.jpg'"
    return told


def _default_worth_telling(default: object) -> str | None:
    """Return how `--help` names a default, None where it is nothing: a number always is."""
    is_number = isinstance(default, (int, float)) and default is not False
    return str(default) if default or is_number else None


class _CommandLine(App):
    """Commands most of whose arguments are paths."""

    def generate_completion(self, **how: Any) -> str:
        """Return what teaches a shell the options; bash completes files besides."""
        script = super().generate_completion(**how)
        return script.replace("\ncomplete -F ", "\ncomplete -o bashdefault -o default -F ")


def _make_app() -> App:
    app = _CommandLine(
        name="styleclip",
        help="Edit large sets of face photographs by text with StyleCLIP.",
        help_epilogue=epilogue(""),
        version=CODE_VERSION,
        error_formatter=_explain,
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
            sort_key=len(_COMMANDS) + place,
        )
        for place, (name, text) in enumerate(_GROUPS.items())
    }
    for place, (words, path) in enumerate(_COMMANDS.items()):
        group, _, name = words.rpartition(" ")
        chosen = groups[group] if group else app
        chosen.command(
            path, name=name, help=docstring(path), help_epilogue=epilogue(words), sort_key=place
        )
    for inner in groups.values():
        app.command(inner)
    app.register_install_completion_command()
    return app


app = _make_app()


@app.meta.default
def launch(
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
    except _TOLD as error:
        return _tell(error, trace)
    if isinstance(result, Summary):
        line = printable(result.line)
        told = {name: value for name, value in asdict(result).items() if value != ""}
        print(json.dumps(told) if json_output else line)  # noqa: T201
        return 0 if not result.failed else STAGE_FAILED
    if result is not None:
        _show(result, json_output)
    return 0


def _tell(error: Exception, trace: bool) -> int:
    """Tell an error, and return the status to exit with."""
    from tasks.store.redaction import redact

    if trace:
        traceback.print_exception(error)
    console.print("[bold red]error[/]", end=": ")
    told = redact(str(error)) or type(error).__name__
    say(told.rstrip(".") + _UNREACHED[1] if told.startswith(_UNREACHED[0]) else told)
    return STAGE_FAILED if isinstance(error, RuntimeError) else USER_ERROR


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
    if all(len(one) <= _IN_A_LINE for one in result):
        told = "\n".join("  ".join(filter(None, one.values())) for one in result)
    else:
        told = "\n\n".join("\n".join(f"{n}: {v}" for n, v in one.items() if v) for one in result)
    print(json.dumps(result) if as_json else printable(told))  # noqa: T201


def start(tokens: Sequence[str]) -> int:
    """Run a command line and return its status, or exit where it names what there is not."""
    command, given = refuse_unknown(tokens)
    try:
        _refuse_credentials(tokens)
        if command:
            from flows.inputs import check_inputs

            own = [token for token in _with_statuses(given) if token not in _FLAGS]
            check_inputs(command, given_texts(_COMMANDS[command], own))
    except _TOLD as error:
        return _tell(error, "--trace" in tokens)
    status: int = app.meta([*tokens])
    return status


def main() -> None:
    """Run the command line and exit with its status."""
    end_soon_when_interrupted()
    try:
        status = start(sys.argv[1:])
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
