"""Synthesis in other arithmetics against plain float32: what a calibration chooses from."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.networks import large_networks, random_latents
from benchmarks.paired import Ratio, compare
from styleclip_ops.arithmetic import Arithmetic, Synthesizer, synthesizer
from tasks.models import has_bfloat16_units

BATCH = 4
ARITHMETICS = (
    Arithmetic(channels_last=True),
    Arithmetic(compiled=True),
    Arithmetic("bfloat16"),
    Arithmetic("bfloat16", compiled=True),
    Arithmetic("bfloat16", channels_last=True),
    Arithmetic("bfloat16", channels_last=True, compiled=True),
)


def run(device: str = "cpu") -> Iterator[Ratio]:
    """Compare at 256 px and published widths."""
    generator = large_networks(device).generator
    with torch.no_grad():
        s = generator.w_plus_to_s(random_latents(generator, BATCH))
    plain = partial(_render, generator.synthesize, s)
    for arithmetic in ARITHMETICS:
        if arithmetic.precision == "bfloat16" and not has_bfloat16_units(s.device):
            continue
        other = partial(_render, synthesizer(generator, arithmetic), s)
        yield compare(
            f"synthesis 256 px, batch {BATCH}: {arithmetic}", other, plain, 3, same_memory=True
        )


@torch.no_grad()
def _render(synthesize: Synthesizer, s: Tensor) -> None:
    synthesize(s)
