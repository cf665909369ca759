"""The generator's forward pass against its published forms, and against its bare convolutions.

What is gained on processors, at 256 px and batch 4 (profiles are in docs/speed.md): one convolution
for all images of a batch where weights outweigh activations, weights modulated and images taken one
by one where it is the other way round; Winograd's algorithm from 64 px on; upsampling by phases;
the gain folded into the demodulation, the bias into the convolution, activations in place. The bare
convolutions are direct ones, so that Winograd's may fall below them. What of the ratios is freed
memory that the pipeline keeps (`tasks.memory`) shows in the last one, where rosinality's form keeps
it as well.
"""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks import plain_generator
from benchmarks.paired import Ratio, compare
from styleclip_ops.generator import Generator, GeneratorConfig


@torch.no_grad()
def run(device: str = "cpu") -> Iterator[Ratio]:
    """Compare at 256 px, in float32, one image and four."""
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig.from_channel_multiplier(256)).eval().to(device)
    for batch in (1, 4):
        s = generator.w_plus_to_s(torch.randn(batch, generator.num_ws, 512).to(device))
        ours = partial(generator.synthesize, s)
        rosinality = partial(plain_generator.synthesize, generator, s)
        nvidia = partial(plain_generator.synthesize, generator, s, "nvidia")
        for published in (rosinality, nvidia):
            difference = (published() - ours()).abs().max()
            if difference > 1e-3:
                raise RuntimeError(f"the two forms differ by {difference:.2g}")
        bare = partial(plain_generator.bare_convolutions, generator, batch)
        what = f"generator 256 px, batch {batch}"
        yield compare(f"{what}: against rosinality's form", ours, rosinality, 3)
        yield compare(f"{what}: against NVIDIA's form", ours, nvidia, 3)
        yield compare(f"{what}: against its bare convolutions", ours, bare, 3, same_memory=True)
        name = f"{what}: against rosinality's form with our memory"
        yield compare(name, ours, rosinality, 3, same_memory=True)
