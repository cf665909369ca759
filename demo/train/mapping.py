"""The mapping network: from z ~ N(0, I) to the w of the portraits that z names.

Nothing is learned here. What z names is known in closed form (`demo.portraits.sampling`):
thresholds of coordinates, and erf of others. Leaky ReLUs make both, so the layers of the genuine
mapping network are written down: two make steps and curves, one makes parameters of them, the last
three are those of the map from parameters to w, and any between pass values on.
"""

import math
from collections.abc import Sequence
from itertools import pairwise, starmap

import numpy as np
import torch
from torch import Tensor

from demo.portraits.attributes import GENDERED, LEANINGS, RATES
from demo.portraits.render import render_portraits
from demo.portraits.sampling import (
    NORMAL_NAMES,
    NUM_NORMALS,
    NUM_PARAMETERS,
    portraits_from_normal,
)
from demo.train.latents import LatentError
from demo.train.networks import ParameterToW
from demo.train.normals import parameters_from_normal
from demo.train.randomness import step_generator
from demo.train.reconstruction import draw_latents
from demo.train.synthesis import ConditionedGenerator
from styleclip_ops.generator import Generator, GeneratorConfig, MappingNetwork
from styleclip_ops.layers import EqualizedLinear, normalize_2nd_moment

# A step rises from 0 to 1 over 1 / STEEPNESS of a standard deviation: half precision holds the
# weight, and a second step on the first is SECOND times as steep.
STEEPNESS, SECOND = 20.0, 4.0
# Values plus this are positive, and pass a leaky ReLU unchanged.
OFFSET = 2.5
# Where the slope of the curve for erf changes, in standard deviations.
KNOTS = (-2.6, -1.9, -1.4, -0.9, -0.4, 0.4, 0.9, 1.4, 1.9, 2.6)
_LEAK, _GAIN = 0.2, math.sqrt(2.0)
# Layers that make parameters, and layers of ParameterToW.
_FIRST, _LAST = 3, 3

# An affine map of the activations before: a row of weights, and a constant.
Affine = tuple[Tensor, float]


def construct_mapping(parameter_to_w: ParameterToW, config: GeneratorConfig) -> MappingNetwork:
    """Write down the mapping network that gives, from z, the w of the portrait that z names.

    z is scaled to unit mean square first, as the network does; its first NUM_NORMALS coordinates
    are then the portrait's normal vector, the others are free.

    Args:
        parameter_to_w: The map from parameters to w.
        config: Of the generator.

    Returns:
        The network, whose `w_avg` is zero.

    Raises:
        ValueError: The network has too few layers, or is too narrow.
    """
    mapping = MappingNetwork(config)
    if mapping.num_layers < _FIRST + _LAST:
        raise ValueError(
            f"layers: got {mapping.num_layers}, expected at least {_FIRST + _LAST} for the mapping"
        )
    edges = sum(len(options) - 1 for options in RATES.values())
    needed = 2 * edges + len(KNOTS) * (NUM_NORMALS - len(RATES))
    if config.w_dim < needed:
        raise ValueError(f"width: got {config.w_dim}, expected at least {needed} for the mapping")
    linear = _linear_layers(mapping)
    steps, curves = _write_first_layer(linear[0])
    _write_second_layer(linear[1], steps, curves)
    _write_third_layer(linear[2])
    for layer in linear[_FIRST:-_LAST]:
        _write(layer, [(_one(layer, i, 1 / _GAIN), 0.0) for i in range(NUM_PARAMETERS)])
    weights, biases = zip(*(_effective(layer) for layer in parameter_to_w.linear), strict=True)
    # The parameters arrive as sqrt(2) times themselves plus OFFSET.
    first = torch.zeros(len(weights[0]), config.w_dim)
    first[:, :NUM_PARAMETERS] = weights[0] / _GAIN
    _set(linear[-3], first, biases[0] - weights[0].sum(dim=1) * OFFSET)
    _set(linear[-2], weights[1], biases[1])
    _set(linear[-1], weights[2], biases[2])
    return mapping


def recover_conditioned(generator: Generator) -> ConditionedGenerator:
    """Give a generator whose mapping network was constructed its map from parameters to w again.

    So a training can begin with a finished generator where nothing else of it was kept.
    """
    conditioned = ConditionedGenerator(generator.config, NUM_PARAMETERS)
    conditioned.generator.load_state_dict(generator.state_dict())
    found = _recover_parameter_to_w(generator.mapping)
    conditioned.parameter_to_w.load_state_dict(found.state_dict())
    return conditioned


def _recover_parameter_to_w(mapping: MappingNetwork) -> ParameterToW:
    found = ParameterToW(NUM_PARAMETERS, mapping.w_avg.shape[0])
    endings = _linear_layers(mapping)[-_LAST:]
    for index, (layer, ending) in enumerate(zip(found.linear, endings, strict=True)):
        weight, bias = _effective(ending)
        if index == 0:
            weight = weight[:, :NUM_PARAMETERS] * _GAIN
            bias = bias + weight.sum(dim=1) * OFFSET
        _set(layer, weight, bias)
    return found


@torch.no_grad()
def attach_mapping(conditioned: ConditionedGenerator, seed: int, samples: int = 8192) -> None:
    """Give a generator the mapping network of its map from parameters to w, and its mean w.

    Args:
        conditioned: The generator; its mapping network is replaced.
        seed: Of the latents that the mean is taken over.
        samples: How many.
    """
    generator = conditioned.generator
    device = generator.w_avg.device
    built = construct_mapping(conditioned.parameter_to_w.cpu(), generator.config)
    conditioned.to(device)
    generator.mapping.load_state_dict(built.state_dict())
    z = _draw(samples, generator.mapping.z_dim, seed, device)
    generator.mapping.w_avg = generator.mapping(z).mean(dim=0)


@torch.no_grad()
def measure_mapping(
    conditioned: ConditionedGenerator, seed: int, pictures: int = 256, samples: int = 8192
) -> dict[str, float]:
    """Compare what the mapping network gives with what z names.

    Args:
        conditioned: The generator, with its mapping network.
        seed: Of the latents.
        pictures: Portraits to render.
        samples: Latents to measure w on.

    Returns:
        heldout_error, the share of the variance of w and of S that is missed, added up; and
        heldout_l1, the mean absolute difference to the renders of the portraits named.
    """
    generator = conditioned.generator
    z = _draw(samples, generator.mapping.z_dim, seed, generator.w_avg.device)
    normals = normalize_2nd_moment(z)[:, :NUM_NORMALS]
    wanted = conditioned.parameter_to_w(parameters_from_normal(normals))
    w = generator.mapping(z)
    error = LatentError(generator, wanted)(w[:, None].expand(-1, generator.num_ws, -1), wanted)
    drawn = draw_latents(generator, generator.w_to_w_plus(w[:pictures]))
    portraits = portraits_from_normal(normals[:pictures])
    rendered = render_portraits(portraits, generator.resolution, w.device)
    return {
        "heldout_error": float(error),
        "heldout_l1": float((drawn - rendered.clamp(-1, 1)).abs().mean()),
    }


def _write_first_layer(layer: EqualizedLinear) -> tuple[dict[str, list[Affine]], dict[str, Affine]]:
    """Write steps of the attributes' coordinates, and bends of the values' coordinates.

    Returns:
        The steps of each attribute, one an edge between options, and the curve of each value, as
        affine maps of the layer's activations.
    """
    rows, steps, curves = list[Affine](), dict[str, list[Affine]](), dict[str, Affine]()
    width = layer.weight.shape[0]
    coefficients, constant = _fit_erf()
    for name in NORMAL_NAMES:
        direction = _direction(name, layer.weight.shape[1])
        if name in RATES:
            steps[name] = []
            for edge in _edges(name):
                steps[name].append(_step(rows, direction * STEEPNESS, -edge * STEEPNESS, width))
        else:
            curve = torch.zeros(width)
            curve[len(rows) : len(rows) + len(KNOTS)] = coefficients / _GAIN
            rows += [(direction, -knot) for knot in KNOTS]
            curves[name] = (curve, constant)
    _write(layer, rows)
    return steps, curves


def _write_second_layer(
    layer: EqualizedLinear, steps: dict[str, list[Affine]], curves: dict[str, Affine]
) -> None:
    """Write the second, sharper steps: one for each option; and pass the values on."""
    rows, zero = list[Affine](), torch.zeros(layer.weight.shape[1])
    chosen = {
        name: [*starmap(_difference, pairwise([(zero, 1.0), *edges, (zero, 0.0)]))]
        for name, edges in steps.items()
    }
    for name, options in chosen.items():
        for weight, constant in options:
            if name in GENDERED:
                # Both must hold: the option, and the gender that can have it.
                able = chosen["gender"][[*RATES["gender"]].index(GENDERED[name])]
                weight, constant = weight + able[0], constant + able[1] - 1
            # In the order in which the third layer reads them.
            _step(rows, weight * SECOND, (constant - 0.5) * SECOND, len(layer.weight))
    rows += [(weight, constant + OFFSET) for weight, constant in curves.values()]
    _write(layer, rows)


def _write_third_layer(layer: EqualizedLinear) -> None:
    """Write the parameters, each plus OFFSET."""
    width = layer.weight.shape[1]
    rows, place = list[Affine](), 0
    for name in RATES:
        options = [_read_step(place + 2 * i, width) for i in range(len(RATES[name]))]
        if name in GENDERED:
            # "none", the first option, is what is left by those that also need the gender.
            left: Affine = (torch.zeros(width), 1.0)
            for other in options[1:]:
                left = _difference(left, other)
            options[0] = left
        rows += options
        place += 2 * len(options)
    for index in range(NUM_PARAMETERS - len(rows)):
        rows.append((_one(layer, place + index, 1 / _GAIN), -OFFSET))
    _write(layer, [(weight, constant + OFFSET) for weight, constant in rows])


def _step(rows: list[Affine], weight: Tensor, constant: float, width: int) -> Affine:
    """Add two units whose difference steps where the affine map passes 0; say how to read it."""
    place = len(rows)
    rows += [(weight, constant + 0.5), (weight, constant - 0.5)]
    return _read_step(place, width)


def _read_step(place: int, width: int) -> Affine:
    # Below the step both units leak: their difference is 0.2 there, and 1 above.
    weight = torch.zeros(width)
    weight[place], weight[place + 1] = (sign / _GAIN / (1 - _LEAK) for sign in (1, -1))
    return weight, -_LEAK / (1 - _LEAK)


def _difference(a: Affine, b: Affine) -> Affine:
    return a[0] - b[0], a[1] - b[1]


def _direction(name: str, width: int) -> Tensor:
    """The coordinate of z that a value or attribute is read from, or the mix of two."""
    direction = torch.zeros(width)
    direction[NORMAL_NAMES.index(name)] = 1.0
    if name in LEANINGS:
        other, correlation = LEANINGS[name]
        direction *= (1 - correlation**2) ** 0.5
        direction[NORMAL_NAMES.index(other)] = correlation
    return direction


def _edges(name: str) -> list[float]:
    shares = torch.tensor([*RATES[name].values()], dtype=torch.float64)
    edges: list[float] = torch.special.ndtri(shares.cumsum(0)[:-1]).tolist()
    return edges


def _fit_erf() -> tuple[Tensor, float]:
    """Fit leaky ReLUs at KNOTS, and a constant, to sqrt(3) erf(x / sqrt 2) where x is normal."""
    x = torch.linspace(-4, 4, 2001, dtype=torch.float64)
    bends = torch.nn.functional.leaky_relu(x[:, None] - torch.tensor(KNOTS), _LEAK)
    basis = torch.cat([bends, torch.ones_like(bends[:, :1])], dim=1)
    wanted = 3**0.5 * torch.erf(x / 2**0.5)
    weight = torch.exp(-x.square() / 4)[:, None]
    found, *_ = np.linalg.lstsq((basis * weight).numpy(), (wanted * weight[:, 0]).numpy())
    return torch.from_numpy(found[:-1]).float(), float(found[-1])


def _linear_layers(mapping: MappingNetwork) -> list[EqualizedLinear]:
    return [layer for layer in mapping.children() if isinstance(layer, EqualizedLinear)]


def _one(layer: EqualizedLinear, place: int, value: float) -> Tensor:
    weight = torch.zeros(layer.weight.shape[1])
    weight[place] = value
    return weight


def _write(layer: EqualizedLinear, rows: Sequence[Affine]) -> None:
    """Set the first units of a layer; the others give 0."""
    weight = torch.zeros_like(layer.weight)
    bias = torch.zeros_like(layer.bias)
    weight[: len(rows)] = torch.stack([row for row, _ in rows])
    bias[: len(rows)] = torch.tensor([constant for _, constant in rows])
    _set(layer, weight, bias)


def _effective(layer: EqualizedLinear) -> tuple[Tensor, Tensor]:
    return layer.weight.detach() * layer.weight_gain, layer.bias.detach() * layer.bias_gain


@torch.no_grad()
def _set(layer: EqualizedLinear, weight: Tensor, bias: Tensor) -> None:
    """Give a layer the weight and bias that it is to apply."""
    layer.weight.copy_(weight / layer.weight_gain)
    layer.bias.copy_(bias / layer.bias_gain)


def _draw(num: int, z_dim: int, seed: int, device: torch.device) -> Tensor:
    draw = step_generator(seed, 0, device)
    return torch.randn(num, z_dim, generator=draw, device=device)
