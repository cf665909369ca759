"""How tensors are named and shaped in published checkpoints, against the internal layout.

Every conversion is a renaming and a reshape; no value changes.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from styleclip_ops.errors import CheckpointError
from styleclip_ops.generator import GeneratorConfig
from styleclip_ops.stylespace import StyleLayer, StyleSpaceLayout

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """One tensor of a published checkpoint.

    Attributes:
        name: Its name in the file.
        shape: Its shape in the file.
        internal: Its name in our module; None for the resampling filter, a constant.
        filter_gain: Sum of the resampling filter, where it is one.
    """

    name: str
    shape: Shape
    internal: str | None
    filter_gain: float = 0.0


def nvidia_entries(config: GeneratorConfig, internal: Mapping[str, Shape]) -> list[Entry]:
    """List the tensors of a stylegan2-ada-pytorch generator: the internal ones and the filters."""
    entries = [Entry(name, shape, name) for name, shape in internal.items()]
    layout = StyleSpaceLayout.from_channels(config.channels)
    blocks = [f"synthesis.b{4 << index}" for index in range(len(config.channels))]
    convs = [_nvidia_name(layer) for layer in layout.layers if not layer.is_torgb]
    filters = [Entry(f"{stem}.resample_filter", (4, 4), None, 1.0) for stem in blocks + convs]
    return entries + filters


def rosinality_entries(config: GeneratorConfig, internal: Mapping[str, Shape]) -> list[Entry]:
    """List the tensors of a rosinality/stylegan2-pytorch generator but its `latent_avg`."""
    layout = StyleSpaceLayout.from_channels(config.channels)
    pairs = [("input.input", "synthesis.b4.const")]
    for index in range(config.num_mapping_layers):
        for leaf in ("weight", "bias"):
            pairs.append((f"style.{index + 1}.{leaf}", f"mapping.fc{index}.{leaf}"))
    filters = []
    noise = 0
    for layer in layout.layers:
        stem, ours = _rosinality_name(layer), _nvidia_name(layer)
        pairs += [
            (f"{stem}.conv.weight", f"{ours}.weight"),
            (f"{stem}.conv.modulation.weight", f"{ours}.affine.weight"),
            (f"{stem}.conv.modulation.bias", f"{ours}.affine.bias"),
        ]
        if layer.is_torgb:
            pairs.append((f"{stem}.bias", f"{ours}.bias"))
            if layer.resolution > 4:
                filters.append(f"{stem}.upsample.kernel")
        else:
            pairs += [
                (f"{stem}.activate.bias", f"{ours}.bias"),
                (f"{stem}.noise.weight", f"{ours}.noise_strength"),
                (f"noises.noise_{noise}", f"{ours}.noise_const"),
            ]
            noise += 1
            if layer.name.startswith("conv0"):
                filters.append(f"{stem}.conv.blur.kernel")
    entries = [Entry(name, _rosinality_shape(name, internal[ours]), ours) for name, ours in pairs]
    return entries + [Entry(name, (4, 4), None, 4.0) for name in filters]


def nvidia_config(shapes: Mapping[str, Shape], conv_clamp: float | None = None) -> GeneratorConfig:
    """Infer the architecture from the tensors of a stylegan2-ada-pytorch generator."""
    blocks = _count(shapes, r"synthesis\.b(\d+)\.")
    top = max(blocks, default=4)
    names = [f"synthesis.b{4 << i}.conv1.weight" for i in range(max(top.bit_length() - 2, 1))]
    return _config(shapes, names, "mapping.fc{}.weight", 0, (0, 1), conv_clamp)


def rosinality_config(shapes: Mapping[str, Shape]) -> GeneratorConfig:
    """Infer the architecture from the tensors of a rosinality/stylegan2-pytorch generator."""
    convs = _count(shapes, r"convs\.(\d+)\.")
    blocks = max(convs, default=-1) // 2 + 1
    names = ["conv1.conv.weight", *(f"convs.{2 * j + 1}.conv.weight" for j in range(blocks))]
    return _config(shapes, names, "style.{}.weight", 1, (1, 2), None)


def _config(
    shapes: Mapping[str, Shape],
    convs: list[str],
    mapping_name: str,
    first: int,
    axes: tuple[int, int],
    conv_clamp: float | None,
) -> GeneratorConfig:
    """Read the widths off the last convolution of each block and the mapping layers."""
    pattern = re.escape(mapping_name.removesuffix("weight")).replace(r"\{\}", r"(\d+)")
    layers = max(_count(shapes, pattern), default=first) - first + 1
    inner = mapping_name.format(first)
    for name in [*convs, inner]:
        if name not in shapes:
            raise CheckpointError(f"missing tensor {name}: not a StyleGAN2 generator, or truncated")
    widths = []
    for name in convs:
        if len(shapes[name]) <= axes[1]:
            raise CheckpointError(f"{name}: got shape {list(shapes[name])}, expected a convolution")
        widths.append(shapes[name][axes[0]])
    if len(shapes[inner]) != 2:
        raise CheckpointError(f"{inner}: got shape {list(shapes[inner])}, expected a matrix")
    w_dim, z_dim = shapes[inner]
    return GeneratorConfig(tuple(widths), z_dim, w_dim, layers, conv_clamp)


def to_internal(
    tensors: Mapping[str, Tensor], entries: Sequence[Entry], internal: Mapping[str, Shape]
) -> dict[str, Tensor]:
    """Rename, check and reshape the tensors of a published checkpoint.

    Raises:
        CheckpointError: A tensor is missing, extra or of another shape, or a resampling filter is
            not the one that the generator uses.
    """
    check_tensors(tensors, {entry.name: entry.shape for entry in entries})
    converted = {}
    for entry in entries:
        tensor = tensors[entry.name]
        if entry.internal is not None:
            converted[entry.internal] = tensor.reshape(internal[entry.internal])
        elif not torch.allclose(tensor.float(), resampling_filter(entry.filter_gain), atol=1e-6):
            raise CheckpointError(
                f"tensor {entry.name}: got another resampling filter, expected [1, 3, 3, 1]"
            )
    return converted


def to_published(tensors: Mapping[str, Tensor], entries: Sequence[Entry]) -> dict[str, Tensor]:
    """Rename and reshape internal tensors to those of a published checkpoint."""
    return {
        entry.name: resampling_filter(entry.filter_gain)
        if entry.internal is None
        else tensors[entry.internal].reshape(entry.shape)
        for entry in entries
    }


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Shape]) -> None:
    """Check that a checkpoint holds exactly the expected tensors.

    Raises:
        CheckpointError: One is missing, extra or of another shape; it is named.
    """
    missing = [name for name in expected if name not in tensors]
    extra = [name for name in tensors if name not in expected]
    if missing:
        some = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        instead = f"; got an unexpected {extra[0]}" if extra else ""
        raise CheckpointError(
            f"missing tensor {missing[0]}{some}: "
            f"expected shape {list(expected[missing[0]])}{instead}"
        )
    if extra:
        some = f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
        raise CheckpointError(
            f"extra tensor {extra[0]}{some}: got shape {list(tensors[extra[0]].shape)}, "
            "expected no tensor of this name"
        )
    for name, shape in expected.items():
        got = tuple(tensors[name].shape)
        if got != shape:
            raise CheckpointError(f"tensor {name}: got shape {list(got)}, expected {list(shape)}")


def resampling_filter(gain: float) -> Tensor:
    """[4, 4] outer product of [1, 3, 3, 1] / 8, times the gain."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return torch.outer(taps, taps) * gain


def _nvidia_name(layer: StyleLayer) -> str:
    kind = layer.name.split("_")[0].lower()
    return f"synthesis.b{layer.resolution}.{kind}"


def _rosinality_name(layer: StyleLayer) -> str:
    block = layer.resolution.bit_length() - 4
    if layer.is_torgb:
        return f"to_rgbs.{block}" if block >= 0 else "to_rgb1"
    if block < 0:
        return "conv1"
    return f"convs.{2 * block + (0 if layer.name.startswith('conv0') else 1)}"


def _rosinality_shape(name: str, shape: Shape) -> Shape:
    """The file's shape of a tensor: with broadcast axes in front."""
    if name.endswith(".noise.weight"):
        return (1,)
    if name.startswith("noises."):
        return (1, 1, *shape)
    if name.startswith("to_rgb") and name.endswith(".bias") and "modulation" not in name:
        return (1, *shape, 1, 1)
    if name == "input.input" or name.endswith(".conv.weight"):
        return (1, *shape)
    return shape


def _count(names: Iterable[str], pattern: str) -> set[int]:
    return {int(match[1]) for name in names if (match := re.match(pattern, name))}
