"""A bundle of small random networks, a real S3 API on loopback, and folders of every kind."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.endurance.small_bundle import write_small_bundle
from tasks import arithmetic

from other_device import other_device

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def float32():
    """A processor of one kind: others would time arithmetics, and by chance take another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arithmetic, "has_bfloat16_units", lambda _: False)
        yield


def pytest_collection_modifyitems(items):
    """Flows come last: Hypothesis blames a strategy when Prefect's threads draw at random."""
    items.sort(key=lambda item: item.path.parent.name == "flows")


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> str:
    """The URL of a bundle: 32 px generator, encoder, CLIP and identity network, all random."""
    return write_small_bundle(tmp_path_factory.mktemp("models"))


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
def device():
    """A device beside the processor, as strict as a real one."""
    with other_device() as name:
        yield name


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
