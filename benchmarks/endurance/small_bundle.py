"""A bundle of small random networks of the real architectures: fast, and good for nothing else."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from styleclip_ops.checkpoints import save_safetensors
from styleclip_ops.clip import ClipModel, clip_tokenizer
from styleclip_ops.clip_checkpoints import save_clip_folder
from styleclip_ops.encoder import E4eConfig, E4eEncoder
from styleclip_ops.generator import Generator, GeneratorConfig
from styleclip_ops.identity import ArcFace, ArcFaceConfig
from styleclip_ops.ir_se import IrSeConfig

TRUNK = IrSeConfig((1, 1, 1, 1), (16, 16, 16, 16))
RESOLUTION, NUM_WS, W_DIM = 32, 8, 28


def write_small_bundle(folder: Path, seed: int = 11) -> str:
    """Write generator (32 px), encoder, CLIP and identity network, and return the bundle's URL."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = Generator(GeneratorConfig((24, 20, 16, 12), z_dim=20, w_dim=W_DIM))
        encoder = E4eEncoder(E4eConfig(NUM_WS, W_DIM, RESOLUTION, TRUNK))
        save_safetensors(generator.eval(), folder / "generator.safetensors")
        save_safetensors(encoder.eval(), folder / "encoder.safetensors")
        save_safetensors(ArcFace(ArcFaceConfig(16, TRUNK)).eval(), folder / "identity.safetensors")
        save_clip_folder(_random_clip(), folder / "clip")
    names = {
        "generator": "generator.safetensors",
        "encoder": "encoder.safetensors",
        "clip": "clip",
        "identity": "identity.safetensors",
    }
    return write_bundle(folder, names)


def write_bundle(folder: Path, uris: Mapping[str, str]) -> str:
    """Name networks by role in a bundle of a folder, and return its URL."""
    bundle = folder / "bundle.json"
    bundle.write_text(
        json.dumps({role: {"uri": uri} for role, uri in uris.items()}), encoding="utf-8"
    )
    return str(bundle)


def _random_clip() -> ClipModel:
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 2}
    text = CLIPTextConfig(vocab_size=49408, eos_token_id=49407, bos_token_id=49406, **tower)
    vision = CLIPVisionConfig(image_size=RESOLUTION, patch_size=8, **tower)
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=24
    )
    return ClipModel(CLIPModel(config).eval(), clip_tokenizer())
