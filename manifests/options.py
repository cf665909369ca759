"""The options of the methods: their names, types and ranges."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from manifests.errors import Mistake, did_you_mean
from manifests.schemas import Method

OptionValue = str | int | float | bool

_LONGEST_TEXT = 10_000


class Option(NamedTuple):
    """One option.

    Attributes:
        expected: Its type and range in words.
        read: Gives the value in its own type; raises ValueError outside the range.
    """

    expected: str
    read: Callable[[object], OptionValue]


def _whole(low: int, high: int) -> Option:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return Option(f"a whole number from {low} to {high:,}", read)


def _number(expected: str, accepts: Callable[[float], bool]) -> Option:
    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        number = float(value)
        if not (math.isfinite(number) and accepts(number)):
            raise ValueError
        return number

    return Option(expected, read)


def _choice(*names: str) -> Option:
    def read(value: object) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError
        return value

    return Option(" or ".join(json.dumps(name) for name in names), read)


def _read_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


_STEPS = _whole(1, 1_000_000)
_RATE = _number("a number above 0", lambda number: number > 0)
_WEIGHT = _number("a number, 0 or more", lambda number: number >= 0)
_SHARE = _number("a number from 0 to 1", lambda number: 0 <= number <= 1)
_FLAG = Option("true or false", _read_flag)

_LEVELS = ("coarse", "medium", "fine")

OPTIONS: Mapping[Method, Mapping[str, Option]] = {
    "global": {},
    "mapper": {
        "mapper_type": _choice("levels", "single", "style_space"),
        "steps": _STEPS,
        "batch_size": _whole(1, 4096),
        "learning_rate": _RATE,
        "clip_lambda": _WEIGHT,
        "id_lambda": _WEIGHT,
        "l2_lambda": _WEIGHT,
        **dict.fromkeys(_LEVELS, _FLAG),
        "truncation_psi": _SHARE,
        "num_latents": _whole(1, 1_000_000),
        "seed": _whole(0, 2**31 - 1),
    },
    "optimize": {
        "steps": _STEPS,
        "lr": _RATE,
        "l2_lambda": _WEIGHT,
        "id_lambda": _WEIGHT,
        "mode": _choice("best", "published"),
        "patience": _whole(0, 1_000_000),
        "space": _choice("w_plus", "style"),
        "start": _choice("source", "samples"),
    },
}


class OptionsError(ValueError):
    """The options of an edit cannot be used."""

    def __init__(self, got: object, expected: str, remedy: str) -> None:
        self.mistake = Mistake("options", got, expected, remedy)
        super().__init__(str(self.mistake))


def read_options(method: Method, text: object) -> dict[str, OptionValue]:
    """Read the options of an edit, each in its own type.

    Args:
        method: Whose options they are.
        text: A JSON object as text; None for no options.

    Raises:
        OptionsError: The text is no JSON object, or an option is unknown or outside its range.
    """
    if text is None:
        return {}
    allowed, values = OPTIONS[method], _parse(text)
    for name in values:
        if name not in allowed:
            raise _unknown(method, name)
    read = {name: _read(name, allowed[name], value) for name, value in values.items()}
    if method == "mapper" and not any(read.get(level, True) for level in _LEVELS):
        raise OptionsError(
            text, "at least one of coarse, medium, fine", "a mapper without levels edits nothing"
        )
    return read


def options_text(values: Mapping[str, OptionValue]) -> str | None:
    """Write options so that equal options give equal text; None for no options."""
    return canonical_json(values) if values else None


def canonical_json(value: object) -> str:
    """Write JSON in the one way that digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _parse(text: object) -> dict[str, Any]:
    remedy = 'write for example {"steps": 40}, or leave the cell empty'
    if not isinstance(text, str):
        raise OptionsError(text, "a JSON object as text", remedy)
    if len(text) > _LONGEST_TEXT:
        raise OptionsError(
            text, f"at most {_LONGEST_TEXT:,} characters", "leave out what is default"
        )
    try:
        values = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except OptionsError:
        raise
    except (ValueError, RecursionError) as error:
        raise OptionsError(text, "a JSON object", f"{remedy} ({_reason(error)})") from None
    if not isinstance(values, dict):
        raise OptionsError(text, "a JSON object", remedy)
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise OptionsError([name for name, _ in pairs], "each option once", "keep one of each name")
    return values


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _reason(error: Exception) -> str:
    return "too deep" if isinstance(error, RecursionError) else str(error)


def _unknown(method: Method, name: str) -> OptionsError:
    allowed = OPTIONS[method]
    if not allowed:
        return OptionsError(name, f"no options for method {method}", "remove it")
    remedy = did_you_mean(name, allowed, "remove it")
    return OptionsError(name, f"an option of method {method} ({', '.join(allowed)})", remedy)


def _read(name: str, option: Option, value: object) -> OptionValue:
    try:
        return option.read(value)
    except (ValueError, OverflowError):
        raise OptionsError(
            {name: value}, f"{name} to be {option.expected}", "change it, or leave it out"
        ) from None
