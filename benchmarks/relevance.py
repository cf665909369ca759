"""Channel relevance against the published loop: two whole renders a channel and image."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import plain_generator
from benchmarks.paired import Ratio, compare
from styleclip_ops.generator import Generator, GeneratorConfig
from styleclip_ops.relevance import channel_clip_directions


class SmallClip:
    """A convolutional embedder: CLIP's share of the published loop is a tenth, and not compared."""

    def __init__(self) -> None:
        self.weight = torch.randn(64, 3, 16, 16) / 28

    def embed_images(self, images: Tensor) -> Tensor:
        """Embed [N, 3, R, R] as unit [N, 64]."""
        features = F.conv2d(images, self.weight, stride=16).tanh()
        return F.normalize(features.mean(dim=(2, 3)), dim=1)


@torch.no_grad()
def run() -> Iterator[Ratio]:
    """Compare on channels spread over the layers, and one image, at 64 px."""
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig.from_channel_multiplier(64, 0.25)).eval()
    clip = SmallClip()
    s = generator.w_plus_to_s(torch.randn(1, generator.num_ws, 512))
    std = torch.ones(generator.layout.size)
    editable = generator.layout.editable_channels
    channels = editable[:: len(editable) // 48]

    def published() -> Tensor:
        rows = []
        for channel in channels.tolist():
            features = []
            for step in (-5, 5):
                edited = s.clone()
                edited[:, channel] += step * std[channel]
                features.append(clip.embed_images(plain_generator.synthesize(generator, edited)))
            rows.append(F.normalize(features[1] - features[0], dim=1))
        return torch.cat(rows)

    def exact() -> Tensor:
        return channel_clip_directions(generator, clip, s, std, channels)

    agreement = F.cosine_similarity(published(), exact()).min()
    if agreement < 0.9999:
        raise RuntimeError(f"the two relevances agree to cosine {agreement:.5f} only")
    yield compare(
        "relevance 64 px, exact: against two whole renders a channel", exact, published, 3
    )
