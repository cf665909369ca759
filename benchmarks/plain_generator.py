"""The synthesis network as published: weights modulated per sample, grouped convolutions.

Both published forms do the same on processors but for the low-pass filter: rosinality's takes every
channel as an image of its own, NVIDIA's is one depthwise convolution.
"""

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from styleclip_ops.generator import Generator, StyledConv, ToRGB
from styleclip_ops.published_layouts import resampling_filter

Form = Literal["rosinality", "nvidia"]


def synthesize(generator: Generator, s: Tensor, form: Form = "rosinality") -> Tensor:
    """Render flat style codes [N, S] as rosinality/stylegan2-pytorch or NVIDIA's code does."""
    batch = len(s)
    x = generator.synthesis.initial_state(batch).features
    image: Tensor | None = None
    for layer, style in zip(generator.layout.layers, generator.layout.split(s), strict=True):
        module = generator.synthesis.style_layer(layer)
        if isinstance(module, ToRGB):
            rgb = _modulated(module.weight, x, style, form, demodulate=False)
            rgb = rgb + module.bias[None, :, None, None]
            image = rgb if image is None else rgb + _upsample(image, form)
        else:
            x = _styled(module, x, style, form)
    assert image is not None
    return image


def bare_convolutions(generator: Generator, batch: int) -> None:
    """Run the convolutions of the synthesis network and nothing else: the work none can avoid."""
    for layer in generator.layout.layers:
        module = generator.synthesis.style_layer(layer)
        upsample = isinstance(module, StyledConv) and module.upsample
        size = layer.resolution // 2 if upsample else layer.resolution
        x = module.weight.new_zeros(batch, layer.channels, size, size)
        if upsample:
            F.conv_transpose2d(x, module.weight.transpose(0, 1), stride=2)
        else:
            F.conv2d(x, module.weight, padding=module.weight.shape[-1] // 2)


def _styled(module: StyledConv, x: Tensor, style: Tensor, form: Form) -> Tensor:
    x = _modulated(module.weight, x, style, form, demodulate=True, upsample=module.upsample)
    x = x + module.noise_strength * module.noise_const
    return F.leaky_relu(x + module.bias[None, :, None, None], 0.2) * math.sqrt(2)


def _modulated(
    weight: Tensor,
    x: Tensor,
    style: Tensor,
    form: Form,
    *,
    demodulate: bool,
    upsample: bool = False,
) -> Tensor:
    batch, channels, height, width = x.shape
    out, _, kernel, _ = weight.shape
    scale = 1 / math.sqrt(channels * kernel**2)
    weights = scale * weight[None] * style[:, None, :, None, None]
    if demodulate:
        weights = weights * (weights.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    x = x.reshape(1, batch * channels, height, width)
    if upsample:
        weights = weights.transpose(1, 2).reshape(batch * channels, out, kernel, kernel)
        x = F.conv_transpose2d(x, weights, stride=2, groups=batch)
        x = x.view(batch, out, *x.shape[2:])
        return _filtered(F.pad(x, (1, 1, 1, 1)), form)
    weights = weights.reshape(batch * out, channels, kernel, kernel)
    x = F.conv2d(x, weights, padding=kernel // 2, groups=batch)
    return x.view(batch, out, height, width)


def _upsample(image: Tensor, form: Form) -> Tensor:
    batch, channels, height, width = image.shape
    spread = image.new_zeros(batch, channels, 2 * height, 2 * width)
    spread[:, :, ::2, ::2] = image
    return _filtered(F.pad(spread, (2, 1, 2, 1)), form)


def _filtered(x: Tensor, form: Form) -> Tensor:
    batch, channels, height, width = x.shape
    kernel = resampling_filter(4.0).to(x)[None, None]
    if form == "nvidia":
        return F.conv2d(x, kernel.repeat(channels, 1, 1, 1), groups=channels)
    y = F.conv2d(x.reshape(batch * channels, 1, height, width), kernel)
    return y.view(batch, channels, height - 3, width - 3)
