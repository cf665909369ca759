"""Small networks of the real architectures, with seeded random weights."""

import pytest
import torch
from torch import Tensor

from styleclip_ops.generator import Generator, GeneratorConfig

# On networks this small threads only wait for each other.
torch.set_num_threads(1)


def random_generator(
    channels: tuple[int, ...] = (24, 20, 16, 12), conv_clamp: float | None = None
) -> Generator:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        config = GeneratorConfig(channels, z_dim=20, w_dim=28, conv_clamp=conv_clamp)
        generator = Generator(config)
        for name, parameter in generator.named_parameters():
            if name.endswith(("bias", "noise_strength")):
                parameter.data += 0.1 * torch.randn_like(parameter)
        generator.mapping.w_avg.normal_(std=0.1)
    return generator.eval().requires_grad_(False)


class PixelEmbedder:
    """A differentiable, nonlinear stand-in for CLIP: images and texts -> unit [N, 12]."""

    def embed_images(self, images: Tensor) -> Tensor:
        pooled = torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)
        return torch.nn.functional.normalize(torch.tanh(pooled) + 0.3 * pooled.square(), dim=1)

    def embed_texts(self, texts: list[str]) -> Tensor:
        rows = [
            torch.sin(torch.arange(1.0, 13.0) * (1 + sum(map(ord, text)) % 97)) for text in texts
        ]
        return torch.nn.functional.normalize(torch.stack(rows), dim=1)


class FaceEmbedder:
    """A stand-in for the identity network: images -> unit [N, 9]."""

    def embed(self, images: Tensor) -> Tensor:
        pooled = torch.nn.functional.adaptive_avg_pool2d(images, (1, 3)).flatten(1)
        return torch.nn.functional.normalize(pooled.sin() + 0.1, dim=1)


@pytest.fixture(scope="session")
def generator() -> Generator:
    return random_generator()


@pytest.fixture(scope="session")
def w_plus(generator: Generator) -> Tensor:
    random = torch.Generator().manual_seed(3)
    return torch.randn(5, generator.num_ws, generator.config.w_dim, generator=random)


@pytest.fixture(scope="session")
def s(generator: Generator, w_plus: Tensor) -> Tensor:
    return generator.w_plus_to_s(w_plus)


@pytest.fixture
def clip() -> PixelEmbedder:
    return PixelEmbedder()


@pytest.fixture
def identity() -> FaceEmbedder:
    return FaceEmbedder()
