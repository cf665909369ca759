"""Words of a command line that there are not: what is wrong with them, and what was meant."""

import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches

from cyclopts import CoercionError, CycloptsError, MissingArgumentError, UnusedCliTokensError
from rich.markup import escape

from flows.commands import COMMANDS, GROUPS
from flows.progress import console
from flows.signatures import options
from manifests.schemas import ALL_FAILURES, FACE_FAILURES, LATENT_FAILURES, RESULT_FAILURES

USER_ERROR = 2
# Before every command.
FLAGS = ("--json", "--trace", "--server", "--no-server", "--version")
_GLOBAL = (*FLAGS, "--metrics")
HELP = ("--help", "-h")
_ANYWHERE = (*HELP, "--install-completion")
# Options that people try and that are columns of the manifest.
_STRENGTHS = ("--alpha", "--alphas", "--strength", "--beta", "--method", "--prompt", "--target")
# What `--retry-failed` takes.
_FAILURES = {
    "align": FACE_FAILURES,
    "invert": LATENT_FAILURES,
    "edit": RESULT_FAILURES,
    "run": RESULT_FAILURES,
}
# Several numbers where one is asked for.
_SEVERAL = re.compile(r"\d[,;]\s*\d")
# Words that other tools have for ours.
_MEANT = {"check": ("validate", "verify"), "create": ("build",), "delete": ("forget",)}
# From which on an option is taken for a mistyped one.
_ALIKE = 0.65


def explain(error: CycloptsError) -> str:
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
        The words of the command and what follows them; no words where there is no command.
    """
    begun = ""
    for place, word in enumerate(tokens):
        if place and tokens[place - 1] == "--metrics":
            continue
        is_option = word.startswith("-")
        own = [name.removeprefix(begun) for name in COMMANDS if name.startswith(begun)]
        known = [*_GLOBAL] if is_option else [*dict.fromkeys(name.split()[0] for name in own)]
        if not begun and word in GROUPS:
            begun = f"{word} "
            continue
        if f"{begun}{word}" in COMMANDS:
            rest = tokens[place + 1 :]
            _refuse_unknown_options(f"{begun}{word}", rest)
            return f"{begun}{word}", rest
        if word in _ANYWHERE:
            break
        if word.partition("=")[0] in known:
            continue
        what = "before the command" if is_option else "which is no command"
        told = f"got {begun}{word}, {what}, expected one of {', '.join(known)}"
        _refuse(told, word, known, f"styleclip {begun}".rstrip())
    return "", ()


def _refuse_unknown_options(command: str, tokens: Sequence[str]) -> None:
    known = [*options(COMMANDS[command]), *_GLOBAL]
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
    alike = [meant for meant in _MEANT.get(word, ()) if meant in known]
    alike += get_close_matches(word, known, 1, _ALIKE)
    hint = f" (did you mean {alike[0]}?)" if alike else ""
    console.print(_told(mistake + hint, words))
    sys.exit(USER_ERROR)


def _explain_surplus(error: UnusedCliTokensError) -> str:
    surplus = [*(error.unused_tokens or ())]
    given = [*(error.root_input_tokens or ())]
    place = given.index(surplus[0]) if surplus and surplus[0] in given else 0
    if given[:place][-2:] == ["--retry-failed", ALL_FAILURES]:
        failures = _FAILURES[(error.command_chain or ("",))[-1]]
        return f"--retry-failed: got {surplus[0]}, expected some of {', '.join(failures)}"
    told = f"got {' '.join(surplus)}, which is more than this command takes"
    is_number = bool(surplus) and re.fullmatch(r"[\d.]+", surplus[0])
    if is_number:
        return f"{told}; an option takes one value, as in --alpha 2 --alpha 4"
    if error.command_chain in (("align",), ("run",)):
        return f"{told}; a pattern stands in quotes, as in 'photos/*.jpg'"
    return told
