"""The error tree of the ops. Messages say what, got, expected, and the remedy."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# More than any network of the field has; beyond it a configuration is nonsense, or an attack.
MAX_WIDTH = 65_536


class StyleClipError(Exception):
    """Base of every error that the ops raise on purpose."""


class ShapeError(StyleClipError, ValueError):
    """A tensor or array has the wrong shape."""


class ConfigError(StyleClipError, ValueError):
    """A parameter is outside its range or contradicts another."""


class NoChannelError(StyleClipError, ValueError):
    """The disentanglement threshold beta leaves no style channel."""


class CheckpointError(StyleClipError, ValueError):
    """A checkpoint is truncated, of another architecture, or has wrong tensors."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint asks for code to be run; nothing of it was executed."""


def check_shape(name: str, tensor: "torch.Tensor", expected: Sequence[int | str]) -> None:
    """Check the shape of an input tensor.

    Args:
        name: The argument's name for the message.
        tensor: The tensor to check.
        expected: One entry an axis: an int must match, a str names a free axis; axes of one name
            have one size.

    Raises:
        ShapeError: A number of axes or a size differs. Where only the leading batch axis is
            missing (a single [18, 512] latent, say), the message says how to add it.
    """
    got = tuple(tensor.shape)
    if _matches(got, expected):
        return
    wanted = "[" + ", ".join(str(size) for size in expected) + "]"
    remedy = ""
    if isinstance(expected[0], str) and _matches(got, expected[1:]):
        remedy = f"; one sample needs a batch axis: {name}[None]"
    raise ShapeError(f"{name}: got shape {list(got)}, expected {wanted}{remedy}")


def check_integers(low: int, high: int, **values: object) -> None:
    """Check that parameters are integers in a range.

    Raises:
        ConfigError: One is no integer, or outside `low` to `high`.
    """
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ConfigError(f"{name}: got {value!r}, expected an integer from {low} to {high}")


def _matches(got: Sequence[int], expected: Sequence[int | str]) -> bool:
    named: dict[str, int] = {}
    return len(got) == len(expected) and all(
        (named.setdefault(want, have) if isinstance(want, str) else want) == have
        for have, want in zip(got, expected, strict=True)
    )
