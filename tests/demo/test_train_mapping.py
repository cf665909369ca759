"""The mapping network that is written down, and the scales of W and S."""

from dataclasses import replace

import pytest
import torch

from demo.portraits.sampling import NUM_NORMALS, NUM_PARAMETERS
from demo.train.mapping import (
    attach_mapping,
    construct_mapping,
    measure_mapping,
    recover_conditioned,
)
from demo.train.networks import ParameterToW
from demo.train.normals import parameters_from_normal
from demo.train.scaling import scale_latents
from demo.train.synthesis import ConditionedGenerator
from styleclip_ops.generator import GeneratorConfig
from styleclip_ops.layers import normalize_2nd_moment

CONFIG = GeneratorConfig((8, 8, 8, 8))


@pytest.fixture
def conditioned():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return ConditionedGenerator(CONFIG, NUM_PARAMETERS).requires_grad_(False).eval()


def parameters(num: int, seed: int = 1) -> torch.Tensor:
    normals = torch.randn(num, NUM_NORMALS, generator=torch.Generator().manual_seed(seed))
    return parameters_from_normal(normals)


def test_z_gives_the_w_of_the_portrait_that_it_names(conditioned):
    mapping = construct_mapping(conditioned.parameter_to_w, CONFIG)
    z = torch.randn(2000, 512, generator=torch.Generator().manual_seed(0))
    normals = normalize_2nd_moment(z)[:, :NUM_NORMALS]
    wanted = conditioned.parameter_to_w(parameters_from_normal(normals))
    miss = (mapping(z) - wanted).square().sum(dim=1)
    # On the slope of a step, which few are, w lies between those of two options.
    spread = wanted.var(dim=0).sum()
    assert miss.median() < 1e-3 * spread
    assert (miss > 0.05 * spread).float().mean() < 0.08
    assert miss.mean() < 0.02 * spread


def test_the_weights_fit_half_precision(conditioned):
    mapping = construct_mapping(conditioned.parameter_to_w, CONFIG)
    z = torch.randn(200, 512, generator=torch.Generator().manual_seed(0))
    wanted = mapping(z)
    halved = mapping.half().float()
    assert all(weight.isfinite().all() for weight in halved.parameters())
    assert (halved(z) - wanted).square().mean() < 1e-3 * wanted.var()


def test_a_finished_generator_gives_its_map_to_w_back(conditioned):
    attach_mapping(conditioned, 0, samples=256)
    again = recover_conditioned(conditioned.generator)
    given = parameters(20)
    torch.testing.assert_close(
        again.parameter_to_w(given), conditioned.parameter_to_w(given), atol=1e-4, rtol=1e-4
    )
    assert torch.equal(again(given), again(given))
    torch.testing.assert_close(again(given), conditioned(given), atol=1e-4, rtol=1e-4)


def test_scales_change_and_pictures_do_not(conditioned):
    given = parameters(200)
    before = conditioned(given[:8])
    scale_latents(conditioned, given, w_std=0.2)
    torch.testing.assert_close(conditioned(given[:8]), before, atol=1e-4, rtol=1e-4)
    w = conditioned.parameter_to_w(given)
    assert w.std(dim=0).mean().item() == pytest.approx(0.2, rel=1e-4)
    generator = conditioned.generator
    styles = generator.layout.split(generator.w_plus_to_s(generator.w_to_w_plus(w)))
    assert all(style.abs().mean().item() == pytest.approx(1, rel=1e-4) for style in styles)


def test_figures_are_measured_on_other_latents(conditioned):
    attach_mapping(conditioned, 0, samples=2000)
    figures = measure_mapping(conditioned, 1, pictures=2, samples=2000)
    assert 0 < figures["heldout_error"] < 0.05
    assert 0.05 < figures["heldout_l1"] < 2


def test_a_network_too_narrow_or_shallow_is_refused(conditioned):
    with pytest.raises(ValueError, match="expected at least 6"):
        construct_mapping(conditioned.parameter_to_w, replace(CONFIG, num_mapping_layers=5))
    with pytest.raises(ValueError, match="width: got 128, expected at least"):
        construct_mapping(ParameterToW(NUM_PARAMETERS, 128), replace(CONFIG, z_dim=128, w_dim=128))
