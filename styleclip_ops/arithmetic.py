"""How synthesis computes: its precision, memory format, and whether it is compiled."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Literal, get_args

import torch
from torch import Tensor

from styleclip_ops.errors import ConfigError
from styleclip_ops.generator import Generator

Precision = Literal["float32", "bfloat16"]

# Style codes [N, layout.size] -> images [N, 3, R, R].
Synthesizer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Arithmetic:
    """How synthesis computes; as a text, what differs from float32 after the precision.

    Attributes:
        precision: Of convolutions; images are added up in float32.
        channels_last: Whether the channels of a pixel lie side by side.
        compiled: Whether torch compiles the network.
    """

    precision: Precision = "float32"
    channels_last: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        return " ".join([self.precision, *(name for name in _FLAGS if getattr(self, name))])


_FLAGS = tuple(field.name for field in fields(Arithmetic) if field.type is bool)
PLAIN = Arithmetic()


def read_arithmetic(text: str) -> Arithmetic:
    """Return the arithmetic that a text names, such as `bfloat16 channels_last`.

    Raises:
        ConfigError: It names none.
    """
    precision, *flags = text.split() or [""]
    if precision not in get_args(Precision) or {*flags} - {*_FLAGS}:
        raise ConfigError(
            f"arithmetic: got {text!r}, expected one of {', '.join(get_args(Precision))}, then "
            f"where wanted {' and '.join(_FLAGS)}"
        )
    return Arithmetic(precision, **dict.fromkeys(flags, True))  # type: ignore[arg-type]


def synthesizer(generator: Generator, arithmetic: Arithmetic) -> Synthesizer:
    """Return a generator's synthesis in an arithmetic, for inference.

    Args:
        generator: Is not changed.
        arithmetic: How to compute.
    """
    if arithmetic == PLAIN:
        return generator.synthesize
    if arithmetic.channels_last:
        generator = copy.deepcopy(generator)
        for parameter in generator.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    network = generator.synthesis
    render = torch.compile(network) if arithmetic.compiled else network
    low = arithmetic.precision == "bfloat16"

    @torch.no_grad()
    def synthesize(s: Tensor) -> Tensor:
        with torch.autocast(s.device.type, torch.bfloat16) if low else nullcontext():
            image: Tensor = render(s)
        return image.float()

    return synthesize
