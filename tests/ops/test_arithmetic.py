from functools import partial

import pytest
import torch
from torch import Tensor

from styleclip_ops.arithmetic import PLAIN, Arithmetic, read_arithmetic, synthesizer
from styleclip_ops.errors import ConfigError
from styleclip_ops.generator import Generator

from conftest import random_generator

ALL = [
    Arithmetic("float32", channels_last=True),
    Arithmetic("float32", compiled=True),
    Arithmetic("bfloat16"),
    Arithmetic("bfloat16", channels_last=True, compiled=True),
]


@pytest.fixture(autouse=True)
def traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace in one graph and do not compile, which takes long and a compiler."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))


@pytest.mark.parametrize("arithmetic", ALL, ids=str)
@pytest.mark.parametrize("conv_clamp", [None, 0.5])
def test_every_arithmetic_draws_the_same_picture(
    arithmetic: Arithmetic, conv_clamp: float | None
) -> None:
    # Wide enough at 64 px for weights that are modulated image by image, and not at 4 px.
    generator = random_generator((12, 10, 8, 6, 4), conv_clamp)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    s = generator.w_plus_to_s(torch.randn(2, generator.num_ws, generator.config.w_dim))
    want = generator.synthesize(s)
    got = synthesizer(generator, arithmetic)(s)
    assert got.dtype == torch.float32
    share = 1e-5 if arithmetic.precision == "float32" else 0.02
    error = (got - want).square().mean().sqrt() / want.std()
    assert 0 <= error < share
    assert (error > 1e-6) == (arithmetic.precision == "bfloat16")
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_float32_is_the_generator_itself(generator: Generator, s: Tensor) -> None:
    assert synthesizer(generator, PLAIN) == generator.synthesize


@pytest.mark.parametrize("arithmetic", [PLAIN, *ALL], ids=str)
def test_texts_name_arithmetics(arithmetic: Arithmetic) -> None:
    assert read_arithmetic(str(arithmetic)) == arithmetic


@pytest.mark.parametrize("text", ["", "float16", "channels_last", "bfloat16 fast", "auto"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="arithmetic: got .* expected one of float32, bfloat16"):
        read_arithmetic(text)
