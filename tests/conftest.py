"""A bundle of small random networks, a real S3 API on loopback, and folders of every kind."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from styleclip_ops.checkpoints import save_safetensors
from styleclip_ops.clip import ClipModel, clip_tokenizer
from styleclip_ops.clip_checkpoints import save_clip_folder
from styleclip_ops.encoder import E4eConfig, E4eEncoder
from styleclip_ops.generator import Generator, GeneratorConfig
from styleclip_ops.identity import ArcFace, ArcFaceConfig
from styleclip_ops.ir_se import IrSeConfig

torch.set_num_threads(1)

TRUNK = IrSeConfig((1, 1, 1, 1), (16, 16, 16, 16))
NUM_WS, W_DIM = 8, 28


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> str:
    """The URL of a bundle: 32 px generator, encoder, CLIP and identity network, all random."""
    folder = tmp_path_factory.mktemp("models")
    with torch.random.fork_rng():
        torch.manual_seed(11)
        save_safetensors(
            Generator(GeneratorConfig((24, 20, 16, 12), z_dim=20, w_dim=W_DIM)).eval(),
            folder / "generator.safetensors",
        )
        encoder = E4eEncoder(E4eConfig(NUM_WS, W_DIM, 32, TRUNK))
        save_safetensors(encoder.eval(), folder / "encoder.safetensors")
        save_safetensors(ArcFace(ArcFaceConfig(16, TRUNK)).eval(), folder / "identity.safetensors")
        save_clip_folder(_random_clip(), folder / "clip")
    names = {
        "generator": "generator.safetensors",
        "encoder": "encoder.safetensors",
        "clip": "clip",
        "identity": "identity.safetensors",
    }
    bundle = folder / "bundle.json"
    bundle.write_text(json.dumps({role: {"uri": name} for role, name in names.items()}))
    return str(bundle)


def _random_clip() -> ClipModel:
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 2}
    text = CLIPTextConfig(vocab_size=49408, eos_token_id=49407, bos_token_id=49406, **tower)
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **tower)
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=24
    )
    return ClipModel(CLIPModel(config).eval(), clip_tokenizer())


@pytest.fixture(scope="session")
def s3_endpoint():
    """A real S3 API on loopback."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="faces")
        yield client
    server.stop()


@pytest.fixture(params=["directory", "memory", "s3"])
def root(request, tmp_path, s3_endpoint) -> str:
    """The URL of an empty folder of each kind."""
    name = f"{request.node.originalname}-{tmp_path.name}".replace("[", "-").replace("]", "")
    return {
        "directory": str(tmp_path / "root"),
        "memory": f"memory://{name}",
        "s3": f"s3://faces/{name}",
    }[request.param]


@pytest.fixture
def face() -> Image.Image:
    """A picture that is no face: the networks do not mind."""
    return Image.linear_gradient("L").resize((64, 64)).convert("RGB")


@pytest.fixture
def crop_folder(tmp_path: Path, face: Image.Image) -> Path:
    """Three different pictures."""
    for index in range(3):
        face.rotate(40 * index).save(tmp_path / f"crop{index}.png")
    return tmp_path
