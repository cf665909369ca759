import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from styleclip_ops.errors import ConfigError, ShapeError
from styleclip_ops.generator import Generator, GeneratorConfig
from styleclip_ops.relevance import quantize_8bit

from conftest import random_generator


@settings(max_examples=15, deadline=None)
@given(batch=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_a_batch_equals_a_loop(generator: Generator, batch: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    w_plus = torch.randn(batch, generator.num_ws, generator.config.w_dim, generator=random)
    s = generator.w_plus_to_s(w_plus)
    rows = [generator.w_plus_to_s(row[None]) for row in w_plus]
    torch.testing.assert_close(s, torch.cat(rows), atol=1e-5, rtol=0)
    loop = torch.cat([generator.synthesize(row) for row in rows])
    # Random networks draw numbers of up to a dozen, and roundings are as large as what is rounded.
    scale = max(1.0, float(loop.abs().max()))
    torch.testing.assert_close(generator.synthesize(s), loop, atol=1e-5 * scale, rtol=0)


def test_the_order_within_a_batch_changes_no_bit(generator: Generator, s: Tensor) -> None:
    order = torch.tensor([3, 0, 4, 2, 1])
    with torch.no_grad():
        assert torch.equal(generator.synthesize(s[order]), generator.synthesize(s)[order])


def test_another_batch_size_changes_a_saved_picture_by_a_level_at_most(
    generator: Generator, s: Tensor
) -> None:
    whole = quantize_8bit(generator.synthesize(s))
    parts = [quantize_8bit(generator.synthesize(part)) for part in torch.split(s, 2)]
    levels = (torch.cat(parts) - whole).abs() * 127.5
    assert levels.max() <= 1.001
    assert (levels > 0).float().mean() < 0.01


@pytest.mark.parametrize("conv_clamp", [None, 0.5])
def test_rendering_without_gradients_gives_the_same_image(conv_clamp: float | None) -> None:
    large = random_generator((12, 10, 8, 6, 4), conv_clamp)
    s = large.w_plus_to_s(torch.randn(2, large.num_ws, 28))
    with torch.no_grad():
        got = large.synthesize(s)
    want = large.synthesize(s.requires_grad_())
    assert want.requires_grad
    torch.testing.assert_close(got, want.detach(), atol=1e-4, rtol=0)


@given(st.integers(1, 24), st.integers(1, 40))
def test_any_latent_without_its_batch_axis_is_refused(
    generator: Generator, rows: int, width: int
) -> None:
    fits = (rows, width) == (generator.num_ws, generator.config.w_dim)
    with pytest.raises(ShapeError, match=r"w_plus\[None\]" if fits else "w_plus: got shape"):
        generator.w_plus_to_s(torch.zeros(rows, width))


@pytest.mark.parametrize("resolution", [32, 64, 128])
@pytest.mark.parametrize("multiplier", [0.125, 0.25])
def test_any_size_and_channel_multiplier(resolution: int, multiplier: float) -> None:
    config = GeneratorConfig.from_channel_multiplier(resolution, multiplier, max_channels=32)
    generator = Generator(config).requires_grad_(False)
    assert generator.resolution == resolution
    assert generator.num_ws == 2 * resolution.bit_length() - 4
    z = torch.randn(2, 512)
    images = generator(generator.w_to_w_plus(generator.mapping(z, truncation_psi=0.5)))
    assert images.shape == (2, 3, resolution, resolution)
    assert images.isfinite().all()


@pytest.mark.parametrize("resolution", [16, 48, 2048])
def test_other_sizes_are_refused(resolution: int) -> None:
    with pytest.raises(ConfigError, match="image size: got"):
        GeneratorConfig.from_channel_multiplier(resolution)


def test_a_latent_without_its_batch_axis_is_an_error_that_says_so() -> None:
    generator = Generator(GeneratorConfig((8,) * 9))
    with pytest.raises(ShapeError, match=r"got shape \[18, 512\].*batch axis: w_plus\[None\]"):
        generator.w_plus_to_s(torch.zeros(18, 512))
    with pytest.raises(ShapeError, match=r"batch axis: s\[None\]"):
        generator.synthesize(torch.zeros(generator.layout.size))


def test_a_latent_of_another_generator_is_refused(generator: Generator) -> None:
    with pytest.raises(ShapeError, match=r"expected \[N, 8, 28\]"):
        generator(torch.zeros(1, 18, 28))


def test_truncation(generator: Generator) -> None:
    z = torch.randn(3, 20)
    w = generator.mapping(z)
    assert torch.equal(generator.mapping(z, truncation_psi=0.0), generator.w_avg.expand(3, -1))
    halfway = (w + generator.w_avg) / 2
    torch.testing.assert_close(generator.mapping(z, truncation_psi=0.5), halfway)
    w_plus = generator.w_to_w_plus(w, truncation_psi=0.0, truncation_cutoff=3)
    assert torch.equal(w_plus[:, :3], generator.w_avg.expand(3, 3, -1))
    assert torch.equal(w_plus[:, 3:], w[:, None].expand(-1, 5, -1))


def test_noise_modes(generator: Generator, s: Tensor) -> None:
    const = generator.synthesize(s[:1])
    assert torch.equal(const, generator.synthesize(s[:1], noise_mode="const"))
    assert not torch.allclose(const, generator.synthesize(s[:1], noise_mode="none"))
    random = [generator.synthesize(s[:1], noise_mode="random") for _ in range(2)]
    assert not torch.allclose(*random)
    # Images of a batch that are rendered alone draw noise of their own.
    together = generator.synthesize(s[:1].expand(2, -1), noise_mode="random")
    assert not torch.allclose(together[0], together[1])
    with pytest.raises(ConfigError, match="noise_mode: got 'loud'"):
        generator.synthesize(s, noise_mode="loud")  # type: ignore[arg-type]


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3])
def test_features_stay_in_the_low_precision(generator: Generator, s: Tensor, batch: int) -> None:
    synthesis = generator.synthesis
    state = synthesis.initial_state(batch)
    with torch.autocast("cpu", torch.bfloat16):
        for layer in generator.layout.layers[:4]:
            state = synthesis.step(state, layer, s[:batch, layer.span], "const")
            if layer.name.startswith("conv"):
                assert state.features.dtype == torch.bfloat16


def test_synthesis_can_start_at_any_layer(generator: Generator, s: Tensor) -> None:
    synthesis = generator.synthesis
    state = synthesis.initial_state(len(s))
    whole = generator.synthesize(s)
    for index, layer in enumerate(generator.layout.layers):
        torch.testing.assert_close(synthesis(s, state=state, start=index), whole)
        state = synthesis.step(state, layer, s[:, layer.span], "const")


def test_the_clamp_bounds_every_convolution(s: Tensor) -> None:
    free, clamped = random_generator(), random_generator(conv_clamp=0.05)
    assert not torch.allclose(free.synthesize(s), clamped.synthesize(s))
    # Each of the four toRGB outputs is within the bound, and upsampling keeps it.
    assert clamped.synthesize(s).abs().max() <= 4 * 0.05 + 1e-6


def test_dtype_follows_the_weights(generator: Generator, w_plus: Tensor) -> None:
    half = random_generator().to(torch.bfloat16)
    images = half(w_plus.bfloat16())
    assert images.dtype == torch.bfloat16
    difference = (images.float() - generator(w_plus)).abs().mean()
    assert difference < 0.05 * generator(w_plus).abs().mean()


def test_a_latent_of_another_dtype_is_truncated_in_its_own(generator: Generator) -> None:
    w = torch.randn(2, 28, dtype=torch.bfloat16)
    w_plus = generator.w_to_w_plus(w, truncation_psi=0.5)
    assert w_plus.dtype == torch.bfloat16
    want = (w.float() + generator.w_avg) / 2
    torch.testing.assert_close(w_plus[:, 0].float(), want, atol=0.02, rtol=0.02)


def test_gradients_reach_every_editable_channel(generator: Generator, s: Tensor) -> None:
    code = s[:1].clone().requires_grad_()
    generator.synthesize(code).square().sum().backward()
    assert code.grad is not None
    assert (code.grad[0] != 0).float().mean() > 0.99


def test_training_under_autocast_has_nearly_the_same_gradients(
    generator: Generator, w_plus: Tensor
) -> None:
    def slopes(autocast: bool) -> Tensor:
        latents = w_plus.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            image = generator(latents)
        (slope,) = torch.autograd.grad(image.float().square().sum(), latents)
        return slope

    cosine = torch.cosine_similarity(slopes(True).flatten(), slopes(False).flatten(), dim=0)
    assert cosine > 0.99
