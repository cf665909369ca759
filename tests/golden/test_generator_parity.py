"""The generator against the published implementations, through both published file formats."""

from copy import deepcopy

import pytest
import torch

from styleclip_ops.checkpoints import load_generator
from styleclip_ops.generator import Generator

from published import (
    assert_image,
    golden,
    golden_styles,
    inp,
    network_pickle,
    rosinality_data,
    torch_file,
)


@pytest.fixture(scope="module", params=[64, 256])
def rosinality(request: pytest.FixtureRequest) -> tuple[Generator, str]:
    size = request.param
    return load_generator(torch_file(rosinality_data(size))), f"rosinality_gen_{size}"


@pytest.fixture(scope="module", params=[64, 256])
def nvidia(request: pytest.FixtureRequest) -> tuple[Generator, str]:
    size = request.param
    return load_generator(network_pickle(size)), f"nvidia_gen_{size}"


def edited_styles(generator: Generator, name: str) -> torch.Tensor:
    s = golden_styles(name, "s_")
    published_shape = golden(name)["s_00"].dim() == 5
    deltas = [
        inp(
            f"s_delta_{i}", (2, 1, layer.channels, 1, 1) if published_shape else (2, layer.channels)
        )
        for i, layer in enumerate(generator.layout.layers)
    ]
    return s + 0.3 * generator.layout.join([delta.reshape(2, -1) for delta in deltas])


def assert_w(w: torch.Tensor, published: torch.Tensor) -> None:
    """Compare in float64, since processors differ in the last bits of float32.

    The published numbers are float32: up to 4.8, they are up to 3.3e-6 from float64 themselves.
    """
    assert w.dtype == torch.float64
    torch.testing.assert_close(w, published.double(), atol=5e-6, rtol=0)


def test_rosinality_w(rosinality: tuple[Generator, str]) -> None:
    generator, name = deepcopy(rosinality[0]).double(), rosinality[1]
    arrays = golden(name)
    z = arrays["z"].double()
    assert_w(generator.mapping(z), arrays["w"])
    truncated = generator.mapping(z, truncation_psi=0.7)
    assert_w(truncated[:, None].expand(-1, generator.num_ws, -1), arrays["w_trunc07"])


def test_rosinality_styles_and_images(rosinality: tuple[Generator, str]) -> None:
    generator, name = rosinality
    arrays = golden(name)
    s = generator.w_plus_to_s(arrays["wplus"])
    torch.testing.assert_close(s, golden_styles(name, "s_"), atol=1e-5, rtol=0)
    assert_image(generator.synthesize(s), name, "img_wplus")
    assert_image(generator.synthesize(edited_styles(generator, name)), name, "img_sedit")
    w_plus = generator.w_to_w_plus(generator.mapping(arrays["z"]), truncation_psi=0.7)
    assert_image(generator(w_plus), name, "img_z_trunc07")


def test_nvidia_w(nvidia: tuple[Generator, str]) -> None:
    generator, name = deepcopy(nvidia[0]).double(), nvidia[1]
    arrays = golden(name)
    w = generator.mapping(arrays["z"].double())
    assert_w(w, arrays["w_mapping"])
    w_plus = generator.w_to_w_plus(w, truncation_psi=0.7, truncation_cutoff=8)
    assert_w(w_plus, arrays["w_trunc07_cutoff8"])


def test_nvidia_styles_and_images(nvidia: tuple[Generator, str]) -> None:
    generator, name = nvidia
    arrays = golden(name)
    assert [layer.name for layer in generator.layout.layers] == arrays["style_names"].tolist()
    s = generator.w_plus_to_s(arrays["wplus"])
    torch.testing.assert_close(s, golden_styles(name, "s_"), atol=1e-5, rtol=0)
    assert_image(generator.synthesize(s), name, "img_wplus")
    assert_image(generator.synthesize(edited_styles(generator, name)), name, "img_sedit")
    assert_image(generator.synthesize(s, noise_mode="none"), name, "img_nonoise")


def test_nvidia_8bit_image() -> None:
    from styleclip_ops.relevance import quantize_8bit

    arrays = golden("nvidia_gen_64")
    image = quantize_8bit(load_generator(network_pickle(64))(arrays["wplus"]))
    levels = ((image + 1) * 127.5).round().permute(0, 2, 3, 1)
    difference = (levels - arrays["img_wplus_uint8"]).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3


def test_rosinality_at_1024_px() -> None:
    generator = load_generator(torch_file(rosinality_data(1024)))
    assert (generator.resolution, generator.num_ws) == (1024, 18)
    assert (generator.layout.size, int(generator.layout.editable.sum())) == (9088, 6048)
    w_plus = golden("e4e_1024")["wplus_photo"]
    images = generator(w_plus)
    assert_image(images, "e4e_1024", "recon_full")
    pooled = torch.nn.functional.adaptive_avg_pool2d(images, 256)
    assert_image(pooled, "e4e_1024", "recon_facepool256")
