"""An instruction: what is asked of an image, by which method and how strongly."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from urllib.parse import urlsplit

from manifests.errors import EditError, Mistake, did_you_mean, shown
from manifests.options import OptionsError, canonical_json, options_text, read_options
from manifests.schemas import METHODS, Method

DEFAULT_NEUTRAL_PROMPT = "a face"
DEFAULT_METHOD: Method = "global"
DEFAULT_ALPHA: Mapping[Method, float] = {"global": 4.0, "mapper": 1.0, "optimize": 1.0}

LONGEST_PROMPT = 1_000
_MOST_CHANNELS = 2**31 - 1
_LONGEST_URI = 2_000


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """What is asked of an image, and how it shall be done.

    Attributes:
        target_prompt: What the edited image shall show; 1 to 1,000 characters. White space around
            a prompt is left out, and within it becomes a space, as CLIP reads it.
        neutral_prompt: What the photograph shows.
        method: global, mapper or optimize.
        alpha: Manipulation strength; any finite number. `DEFAULT_ALPHA` has the usual ones.
        beta: Disentanglement threshold, 0 to 1; method global.
        num_channels: Style channels to keep instead; method global.
        mapper_uri: Folder of a trained mapper; method mapper.
        options: JSON object of the method's further options, see `manifests.options.OPTIONS`; kept
            in canonical form.

    Raises:
        EditError: A value is outside its range or contradicts another.
    """

    target_prompt: str
    alpha: float
    neutral_prompt: str = DEFAULT_NEUTRAL_PROMPT
    method: Method = DEFAULT_METHOD
    beta: float | None = None
    num_channels: int | None = None
    mapper_uri: str | None = None
    options: str | None = None

    def __post_init__(self) -> None:
        for name in ("target_prompt", "neutral_prompt"):
            prompt = getattr(self, name)
            if isinstance(prompt, str) and prompt.strip():
                object.__setattr__(self, name, " ".join(prompt.split()))
        mistakes = tuple(_mistakes(self))
        if mistakes:
            raise EditError(mistakes)
        canonical = options_text(read_options(self.method, self.options))
        object.__setattr__(self, "options", canonical)

    @cached_property
    def content(self) -> str:
        """Canonical JSON of all values that are given, whatever their notation."""
        numbers = {"alpha": self.alpha, "beta": self.beta}
        values = {
            "target_prompt": self.target_prompt,
            "neutral_prompt": self.neutral_prompt,
            "method": self.method,
            "num_channels": self.num_channels,
            "mapper_uri": self.mapper_uri,
            "options": read_options(self.method, self.options) or None,
            # + 0.0 makes 0 of -0
            **{name: None if v is None else float(v) + 0.0 for name, v in numbers.items()},
        }
        return canonical_json({name: v for name, v in values.items() if v is not None})


INSTRUCTION_COLUMNS = tuple(field.name for field in fields(Instruction))

# Says what those who carry an instruction out cannot do of it.
Limits = Callable[[Instruction], Iterable[Mistake]]


def no_limits(_: Instruction) -> Iterable[Mistake]:
    """Take every instruction, as who does not know who carries it out."""
    return ()


def _mistakes(instruction: Instruction) -> Iterator[Mistake]:
    yield from _prompt_mistakes(instruction)
    yield from _strength_mistakes(instruction)
    if instruction.method not in METHODS:
        remedy = did_you_mean(instruction.method, METHODS, "write one of them")
        yield Mistake("method", instruction.method, ", ".join(METHODS), remedy)
        return
    yield from _channel_mistakes(instruction)
    yield from _mapper_mistakes(instruction)
    try:
        read_options(instruction.method, instruction.options)
    except OptionsError as error:
        yield error.mistake


def _prompt_mistakes(instruction: Instruction) -> Iterator[Mistake]:
    neutral, target = instruction.neutral_prompt, instruction.target_prompt
    for column, prompt in (("neutral_prompt", neutral), ("target_prompt", target)):
        if not isinstance(prompt, str) or not prompt.strip():
            yield Mistake(column, prompt, "a text", "write what it shows, such as 'a smiling face'")
        elif len(prompt) > LONGEST_PROMPT:
            yield Mistake(column, prompt, f"at most {LONGEST_PROMPT:,} characters", "shorten it")
        elif not _is_unicode(prompt):
            yield Mistake(column, prompt, "UTF-8 text", "save the file as UTF-8")
    if isinstance(target, str) and target == neutral and target.strip():
        expected = "another text than neutral_prompt"
        yield Mistake("target_prompt", target, expected, "write what shall change")


_ALPHA_REMEDY = "write 4.0, or 2;4 in a table of prompts"


def _strength_mistakes(instruction: Instruction) -> Iterator[Mistake]:
    if not _is_finite(instruction.alpha):
        yield Mistake("alpha", instruction.alpha, "a finite number", _ALPHA_REMEDY)
    beta, channels = instruction.beta, instruction.num_channels
    if beta is not None and not (_is_finite(beta) and 0 <= beta <= 1):
        yield Mistake("beta", beta, "a number from 0 to 1", "write 0.15, or leave it empty")
    if channels is not None and not _is_whole(channels, 1, _MOST_CHANNELS):
        yield Mistake(
            "num_channels", channels, "a whole number from 1", "write 20 or leave it empty"
        )


def _channel_mistakes(instruction: Instruction) -> Iterator[Mistake]:
    beta, channels, method = instruction.beta, instruction.num_channels, instruction.method
    if method != "global":
        for column, value in (("beta", beta), ("num_channels", channels)):
            if value is not None:
                yield Mistake(column, value, f"nothing with method {method}", "leave it empty")
    elif beta is not None and channels is not None:
        yield Mistake(
            "num_channels", channels, f"nothing beside beta {shown(beta)}", "keep one of the two"
        )


def _mapper_mistakes(instruction: Instruction) -> Iterator[Mistake]:
    uri, method = instruction.mapper_uri, instruction.method
    if uri is None:
        return
    if isinstance(uri, str) and _holds_password(uri):
        expected = "a URL without a password"
        yield Mistake("mapper_uri", "(not shown)", expected, "give credentials by the environment")
    elif method != "mapper":
        yield Mistake("mapper_uri", uri, f"nothing with method {method}", "leave it empty")
    elif not isinstance(uri, str) or not _is_uri(uri):
        yield Mistake(
            "mapper_uri", uri, "the URL of a trained mapper's folder", "write it, or none"
        )
    elif instruction.options is not None:
        remedy = "the options are those of a training: keep one of the two"
        yield Mistake("options", instruction.options, "nothing beside mapper_uri", remedy)


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # Unlike math.isfinite, this takes whole numbers of any length.
    return abs(value) <= sys.float_info.max


def _is_uri(text: str) -> bool:
    return bool(text.strip()) and len(text) <= _LONGEST_URI and _is_unicode(text)


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8; one that was not read from it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _holds_password(uri: str) -> bool:
    try:
        return urlsplit(uri).password is not None
    except ValueError:
        return False
