"""The StyleGAN2 generator in plain PyTorch (Karras et al., CVPR 2020; ADA release, NeurIPS 2020).

One internal layout, with the parameter names and shapes of the stylegan2-ada-pytorch release.
Styles scale the activations and not the weights, so that all images of a batch share one
convolution; the demodulation of the output is algebraically the same. Only where processors render
without gradients, and the activations outweigh the weights, it is the other way round.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from styleclip_ops.convolution import conv3x3, is_differentiated, upsample_conv3x3
from styleclip_ops.errors import MAX_WIDTH, ConfigError, check_integers, check_shape
from styleclip_ops.layers import (
    EqualizedLinear,
    filter_after_upsampling,
    normalize_2nd_moment,
    upsample_image,
)
from styleclip_ops.stylespace import StyleLayer, StyleSpaceLayout

NoiseMode = Literal["const", "none", "random"]

# Bounds against nonsense in files, far above any published network.
_MAX_MAPPING_LAYERS = 64

_SQRT2 = math.sqrt(2.0)


@dataclass(frozen=True)
class GeneratorConfig:
    """The architecture of a generator.

    Attributes:
        channels: Feature channels at 4, 8, 16, ... px up to the image size, which is 32 to
            1024 px.
        z_dim: Length of the input latent z.
        w_dim: Length of the intermediate latent w.
        num_mapping_layers: Fully connected layers of the mapping network.
        conv_clamp: Bound on the absolute output of every convolution, or None. Generators
            trained in mixed precision by stylegan2-ada-pytorch use 256.
    """

    channels: tuple[int, ...]
    z_dim: int = 512
    w_dim: int = 512
    num_mapping_layers: int = 8
    conv_clamp: float | None = None

    def __post_init__(self) -> None:
        for channels in self.channels:
            check_integers(1, MAX_WIDTH, channels=channels)
        check_integers(1, MAX_WIDTH, z_dim=self.z_dim, w_dim=self.w_dim)
        check_integers(1, _MAX_MAPPING_LAYERS, num_mapping_layers=self.num_mapping_layers)
        clamp = self.conv_clamp
        if clamp is not None and (isinstance(clamp, bool) or not clamp > 0):
            raise ConfigError(f"conv_clamp: got {clamp}, expected a positive bound or None")
        if not 32 <= self.resolution <= 1024:
            raise ConfigError(
                f"image size: got {self.resolution} px, expected a power of two from 32 to 1024"
            )

    @property
    def resolution(self) -> int:
        """Height and width of the images in pixels."""
        return 4 << (len(self.channels) - 1)

    @classmethod
    def from_channel_multiplier(
        cls, resolution: int, channel_multiplier: float = 2.0, max_channels: int = 512
    ) -> "GeneratorConfig":
        """Choose the channels as the papers do: 16384 * multiplier / resolution, at most 512.

        The published FFHQ generator (config F) has multiplier 2.
        """
        powers = [4 << i for i in range(9)]
        if resolution not in powers:
            raise ConfigError(f"image size: got {resolution} px, expected one of {powers[3:]}")
        base = 16384 * channel_multiplier
        widths = (min(int(base / r), max_channels) for r in powers if r <= resolution)
        return cls(tuple(widths))


class SynthesisState(NamedTuple):
    """What flows between two style layers.

    Attributes:
        features: [N, C, r, r] feature maps.
        image: [N, 3, r, r] RGB sum so far, None before the first toRGB.
    """

    features: Tensor
    image: Tensor | None

    def one(self, place: int) -> "SynthesisState":
        """Return that of one image of the batch."""
        image = None if self.image is None else self.image[place : place + 1]
        return SynthesisState(self.features[place : place + 1], image)


def _exact_sums(x: Tensor) -> torch.autocast:
    """Keep what is added up over all layers in the precision of the weights."""
    return torch.autocast(x.device.type, enabled=False)


class MappingNetwork(nn.Module):
    """z -> w, with the average w for the truncation trick."""

    w_avg: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.z_dim = config.z_dim
        self.num_layers = config.num_mapping_layers
        for index in range(self.num_layers):
            width = config.w_dim if index else config.z_dim
            layer = EqualizedLinear(width, config.w_dim, lr_multiplier=0.01, activate=True)
            self.add_module(f"fc{index}", layer)
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def forward(self, z: Tensor, truncation_psi: float = 1.0) -> Tensor:
        """Map z [N, z_dim] to w [N, w_dim], pulled towards `w_avg` by `truncation_psi`."""
        check_shape("z", z, ("N", self.z_dim))
        w = normalize_2nd_moment(z)
        for index in range(self.num_layers):
            w = self.get_submodule(f"fc{index}")(w)
        return self.w_avg.to(w).lerp(w, truncation_psi) if truncation_psi != 1.0 else w


class ModulatedConv(nn.Module):
    """What every style layer holds: a convolution, its bias, and the affine map w -> style."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, w_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.affine = EqualizedLinear(w_dim, in_channels, bias_init=1.0)


class StyledConv(ModulatedConv):
    """3x3 modulated convolution, noise, bias, leaky ReLU; optionally doubles the resolution."""

    noise_const: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, resolution: int, w_dim: int, upsample: bool
    ) -> None:
        super().__init__(in_channels, out_channels, 3, w_dim)
        self.upsample = upsample
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))

    def forward(
        self, x: Tensor, style: Tensor, noise_mode: NoiseMode, clamp: float | None
    ) -> Tensor:
        """Map features [N, I, r, r] and styles [N, I] to [N, O, r, r], or 2r upsampled."""
        # [O, I] energy of each kernel gives the demodulation of any style: [N, O]
        energy = self.weight.square().sum(dim=(2, 3))
        # The gain of the activation is in all that is added up before it.
        with _exact_sums(x):
            demodulation = (style.to(energy).square() @ energy.t() + 1e-8).rsqrt() * _SQRT2
        differentiable = is_differentiated(x, style, self.weight, self.bias)
        bias = self.bias * _SQRT2
        if len(x) == 1 and not differentiable and self.goes_alone(x):
            # The weights, which are smaller here than the activations, are modulated.
            weight = self.weight * style[0, :, None, None] * demodulation[0, :, None, None, None]
            x = self._convolve(x, weight, bias)
            noise = self._noise(x, noise_mode)
            x = x if noise is None else x.add_(noise)
        else:
            x = self._convolve(x * style[:, :, None, None], self.weight)
            added, noise = bias[:, None, None], self._noise(x, noise_mode)
            added = added if noise is None else added + noise
            x = torch.addcmul(added, x, demodulation[:, :, None, None]).to(x.dtype)
        if differentiable:
            x = F.leaky_relu(x, 0.2)
            return x if clamp is None else x.clamp(-clamp, clamp)
        F.leaky_relu_(x, 0.2)
        return x if clamp is None else x.clamp_(-clamp, clamp)

    def goes_alone(self, x: Tensor) -> bool:
        """Return whether processors render features [N, I, r, r] faster image by image."""
        return x.device.type == "cpu" and x[0].numel() > self.weight.numel()

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not self.upsample:
            return conv3x3(x, weight, bias)
        return filter_after_upsampling(upsample_conv3x3(x, weight), bias)

    def _noise(self, x: Tensor, noise_mode: NoiseMode) -> Tensor | None:
        if noise_mode == "none":
            return None
        noise = self.noise_const if noise_mode == "const" else torch.randn_like(x[:, :1])
        return noise * (self.noise_strength * _SQRT2)


class ToRGB(ModulatedConv):
    """1x1 modulated convolution without demodulation, added to the upsampled image so far."""

    def __init__(self, in_channels: int, w_dim: int) -> None:
        super().__init__(in_channels, 3, 1, w_dim)

    def forward(
        self, x: Tensor, image: Tensor | None, style: Tensor, clamp: float | None
    ) -> Tensor:
        """Add RGB from features [N, I, r, r] and styles [N, I] to an image [N, 3, r/2, r/2]."""
        gain = 1.0 / math.sqrt(self.weight.shape[1])
        # Three weights a channel are less to scale than its pixels.
        weight = self.weight[:, :, 0, 0] * (style * gain)[:, None, :]
        with _exact_sums(x):
            colours = x.flatten(2).to(weight.dtype)
            rgb = torch.baddbmm(self.bias[:, None], weight, colours).view(-1, 3, *x.shape[2:])
            if clamp is not None:
                rgb = rgb.clamp(-clamp, clamp)
            return rgb if image is None else upsample_image(image) + rgb


class SynthesisBlock(nn.Module):
    """The style layers of one resolution."""

    def __init__(self, config: GeneratorConfig, block: int) -> None:
        super().__init__()
        width = config.channels[block]
        resolution = 4 << block
        if block == 0:
            self.const = nn.Parameter(torch.randn(width, 4, 4))
        else:
            below = config.channels[block - 1]
            self.conv0 = StyledConv(below, width, resolution, config.w_dim, upsample=True)
        self.conv1 = StyledConv(width, width, resolution, config.w_dim, upsample=False)
        self.torgb = ToRGB(width, config.w_dim)


class SynthesisNetwork(nn.Module):
    """Flat style code -> image, runnable from and to any style layer."""

    def __init__(self, config: GeneratorConfig, layout: StyleSpaceLayout) -> None:
        super().__init__()
        self.layout = layout
        self.conv_clamp = config.conv_clamp
        for block in range(len(config.channels)):
            self.add_module(f"b{4 << block}", SynthesisBlock(config, block))

    def style_layer(self, layer: StyleLayer) -> StyledConv | ToRGB:
        """Find the module of one style layer."""
        kind = layer.name.split("_")[0].lower()
        # Attributes, since torch.compile sees through these and not through get_submodule.
        module = getattr(getattr(self, f"b{layer.resolution}"), kind)
        assert isinstance(module, StyledConv | ToRGB)
        return module

    def initial_state(self, batch: int) -> SynthesisState:
        """Give the state before the first style layer: the learned constant."""
        const: Tensor = self.b4.const  # type: ignore[assignment, union-attr]
        return SynthesisState(const.expand(batch, -1, -1, -1), None)

    def step(
        self, state: SynthesisState, layer: StyleLayer, style: Tensor, noise_mode: NoiseMode
    ) -> SynthesisState:
        """Run one style layer with its style vectors [N, layer.channels]."""
        module = self.style_layer(layer)
        if isinstance(module, ToRGB):
            image = module(state.features, state.image, style, self.conv_clamp)
            return SynthesisState(state.features, image)
        features = module(state.features, style, noise_mode, self.conv_clamp)
        return SynthesisState(features, state.image)

    def _go_alone(self, state: SynthesisState, layer: StyleLayer, s: Tensor) -> bool:
        """Whether the images of a batch are rendered one after the other from here on."""
        module, features = self.style_layer(layer), state.features
        if not isinstance(module, StyledConv) or not module.goes_alone(features):
            return False
        return not is_differentiated(features, s, module.weight, module.bias)

    def forward(
        self,
        s: Tensor,
        noise_mode: NoiseMode = "const",
        state: SynthesisState | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> Tensor:
        """Render a flat style code, optionally from the state before layer number `start`.

        Up to layer number `stop` it is the RGB sum there, smaller than the image.
        """
        if state is None:
            state = self.initial_state(len(s))
        styles = self.layout.split(s)
        layers = self.layout.layers[start:stop]
        for number, layer in enumerate(layers, start):
            if len(s) > 1 and self._go_alone(state, layer, s):
                return torch.cat(
                    [
                        self(s[place : place + 1], noise_mode, state.one(place), number, stop)
                        for place in range(len(s))
                    ]
                )
            state = self.step(state, layer, styles[number], noise_mode)
        assert state.image is not None
        return state.image


class Generator(nn.Module):
    """StyleGAN2: z -> w -> W+ -> S -> image, each step a call of its own.

    Args:
        config: The architecture. Weights start random; `styleclip_ops.checkpoints.load_generator`
            reads trained ones.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.layout = StyleSpaceLayout.from_channels(config.channels)
        self.mapping = MappingNetwork(config)
        self.synthesis = SynthesisNetwork(config, self.layout)

    @property
    def resolution(self) -> int:
        """Height and width of the images in pixels."""
        return self.layout.resolution

    @property
    def num_ws(self) -> int:
        """Rows of W+: 2 log2(resolution) - 2."""
        return self.layout.num_ws

    @property
    def w_avg(self) -> Tensor:
        """[w_dim] average of w, the centre of the truncation trick."""
        return self.mapping.w_avg

    def w_to_w_plus(
        self, w: Tensor, truncation_psi: float = 1.0, truncation_cutoff: int | None = None
    ) -> Tensor:
        """Repeat w for every row of W+, truncating the first rows.

        Args:
            w: [N, w_dim], not truncated yet.
            truncation_psi: 1 keeps w, 0 gives `w_avg`.
            truncation_cutoff: Rows that are truncated; None for all of them.

        Returns:
            [N, num_ws, w_dim].
        """
        check_shape("w", w, ("N", self.config.w_dim))
        cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
        w_plus = w[:, None].repeat(1, self.num_ws, 1)
        w_plus[:, :cutoff] = self.w_avg.to(w).lerp(w_plus[:, :cutoff], truncation_psi)
        return w_plus

    def w_plus_to_s(self, w_plus: Tensor) -> Tensor:
        """Compute the flat style code: one affine map of its W+ row a style layer.

        Args:
            w_plus: [N, num_ws, w_dim].

        Returns:
            [N, layout.size].

        Raises:
            ShapeError: `w_plus` is not a batch of W+ latents of this generator.
        """
        check_shape("w_plus", w_plus, ("N", self.num_ws, self.config.w_dim))
        return self.layout.join(
            [
                self.synthesis.style_layer(layer).affine(w_plus[:, layer.w_index])
                for layer in self.layout.layers
            ]
        )

    def synthesize(self, s: Tensor, noise_mode: NoiseMode = "const") -> Tensor:
        """Render flat style codes.

        Args:
            s: [N, layout.size].
            noise_mode: `const` uses the stored noise maps, `none` leaves noise out, `random`
                draws it from torch's global generator.

        Returns:
            [N, 3, resolution, resolution], about [-1, 1], not clamped.

        Raises:
            ShapeError: `s` is not a batch of style codes of this generator.
            ConfigError: The noise mode is none of the three.
        """
        check_shape("s", s, ("N", self.layout.size))
        if noise_mode not in ("const", "none", "random"):
            raise ConfigError(f"noise_mode: got {noise_mode!r}, expected const, none or random")
        image: Tensor = self.synthesis(s, noise_mode)
        return image

    def forward(self, w_plus: Tensor) -> Tensor:
        """Render W+ latents [N, num_ws, w_dim] to images [N, 3, resolution, resolution]."""
        return self.synthesize(self.w_plus_to_s(w_plus))
