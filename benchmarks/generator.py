"""The generator's forward pass against its published form, and against its bare convolutions."""

from collections.abc import Iterator

import torch

from benchmarks import plain_generator
from benchmarks.paired import Ratio, compare
from styleclip_ops.generator import Generator, GeneratorConfig


@torch.no_grad()
def run() -> Iterator[Ratio]:
    """Compare at 256 px, in float32, one image and four."""
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig.from_channel_multiplier(256)).eval()
    for batch in (1, 4):
        s = generator.w_plus_to_s(torch.randn(batch, generator.num_ws, 512))
        difference = (plain_generator.synthesize(generator, s) - generator.synthesize(s)).abs()
        if difference.max() > 1e-3:
            raise RuntimeError(f"the two forms differ by {difference.max():.2g}")
        yield compare(
            f"generator 256 px, batch {batch}: against per-sample weights",
            lambda s=s: generator.synthesize(s),  # type: ignore[misc]
            lambda s=s: plain_generator.synthesize(generator, s),  # type: ignore[misc]
        )
        yield compare(
            f"generator 256 px, batch {batch}: against its bare convolutions",
            lambda s=s: generator.synthesize(s),  # type: ignore[misc]
            lambda n=batch: plain_generator.bare_convolutions(generator, n),  # type: ignore[misc]
        )
