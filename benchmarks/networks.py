"""The networks that the benchmarks share: a generator of published size, and the demo's."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.endurance.small_bundle import TRUNK, write_bundle
from styleclip_ops.checkpoints import (
    load_arcface,
    load_clip,
    load_generator,
    save_safetensors,
)
from styleclip_ops.clip import ClipModel
from styleclip_ops.encoder import E4eConfig, E4eEncoder
from styleclip_ops.generator import Generator, GeneratorConfig
from styleclip_ops.identity import ArcFace

PROMPTS = (
    "a smiling face",
    "an old face",
    "a face with glasses",
    "a face with a hat",
    "a face with red hair",
    "a face with blond hair",
    "a face with a beard",
)
NEUTRAL = "a face"


@dataclass(frozen=True)
class Networks:
    """What an edit needs."""

    generator: Generator
    clip: ClipModel
    identity: ArcFace


def demo_networks(device: str = "cpu") -> Networks:
    """Load the demo's networks: trained, 64 px."""
    models = resources.files("demo") / "models"
    networks = Networks(
        load_generator(str(models / "generator.safetensors")),
        load_clip(str(models / "clip")),
        load_arcface(str(models / "identity.safetensors")),
    )
    for network in (networks.generator, networks.clip, networks.identity):
        network.to(device).eval().requires_grad_(False)
    return networks


def large_networks(device: str = "cpu") -> Networks:
    """Put a generator of the published widths, 256 px and with random weights, in the demo's."""
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig.from_channel_multiplier(256)).to(device)
    demo = demo_networks(device)
    return Networks(generator.eval().requires_grad_(False), demo.clip, demo.identity)


def write_large_bundle(folder: Path) -> str:
    """Write `large_networks` with an encoder that fits them and knows nothing; return the URL."""
    generator = large_networks().generator
    encoder = E4eEncoder(E4eConfig(generator.num_ws, generator.config.w_dim, 64, TRUNK))
    save_safetensors(generator, folder / "generator.safetensors")
    save_safetensors(encoder.eval(), folder / "encoder.safetensors")
    models = resources.files("demo") / "models"
    uris = {
        "generator": "generator.safetensors",
        "encoder": "encoder.safetensors",
        "clip": str(models / "clip"),
        "identity": str(models / "identity.safetensors"),
    }
    return write_bundle(folder, uris)


def random_latents(generator: Generator, count: int, seed: int = 0) -> Tensor:
    """Draw W+ latents [count, num_ws, w_dim] of random faces."""
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(count, generator.config.z_dim, generator=random)
    with torch.no_grad():
        return generator.w_to_w_plus(generator.mapping(z.to(generator.w_avg)), truncation_psi=0.7)
