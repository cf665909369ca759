"""How tensors are named and shaped in published checkpoints, against the internal layout.

Every conversion is a renaming and a reshape; no value changes.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from styleclip_ops.errors import CheckpointError
from styleclip_ops.generator import Generator, GeneratorConfig
from styleclip_ops.stylespace import StyleLayer, StyleSpaceLayout

Shape = tuple[int, ...]


# Stand for sizes that a checkpoint has to tell: no layer has sizes like these.
UNKNOWN = tuple(range(60_013, 60_033))

_MAX_BLOCKS = 9
_LEAVES = ("weight", "bias")
_COUNTER = "num_batches_tracked"


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


ListEntries = Callable[[GeneratorConfig, Mapping[str, Shape]], list[Entry]]


def nvidia_entries(config: GeneratorConfig, internal: Mapping[str, Shape]) -> list[Entry]:
    """List the tensors of a stylegan2-ada-pytorch generator: the internal ones and the filters."""
    entries = [Entry(name, shape, name) for name, shape in internal.items()]
    layout = StyleSpaceLayout.from_channels(config.channels)
    blocks = [f"synthesis.b{4 << index}" for index in range(len(config.channels))]
    convs = [_nvidia_name(layer) for layer in layout.layers if not layer.is_torgb]
    filters = [Entry(f"{stem}.resample_filter", (4, 4), None, 1.0) for stem in blocks + convs]
    return entries + filters


def rosinality_entries(config: GeneratorConfig, internal: Mapping[str, Shape]) -> list[Entry]:
    """List the tensors of a rosinality/stylegan2-pytorch generator, `latent_avg` with them."""
    layout = StyleSpaceLayout.from_channels(config.channels)
    pairs = [("latent_avg", "mapping.w_avg"), ("input.input", "synthesis.b4.const")]
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


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """List the names and shapes of a module's weights."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def infer_generator_config(
    tensors: Mapping[str, Tensor],
    list_entries: ListEntries,
    blocks: int,
    num_mapping_layers: int,
    conv_clamp: float | None = None,
) -> GeneratorConfig:
    """Infer the widths of a published generator from all its tensors together.

    Args:
        tensors: The tensors by their names in the file.
        list_entries: `nvidia_entries` or `rosinality_entries`.
        blocks: Resolutions from 4 px.
        num_mapping_layers: Layers of the mapping network.
        conv_clamp: See `GeneratorConfig`.

    Raises:
        CheckpointError: The tensors are those of no generator of 32 to 1024 px.
    """
    if not 4 <= blocks <= _MAX_BLOCKS or num_mapping_layers < 1:
        raise CheckpointError(
            f"got {blocks} resolutions and {num_mapping_layers} mapping layers ({_some(tensors)}), "
            "expected a StyleGAN2 generator of 32 to 1024 px"
        )
    channels, z_dim, w_dim = UNKNOWN[:blocks], UNKNOWN[-1], UNKNOWN[-2]
    symbolic = GeneratorConfig(channels, z_dim, w_dim, num_mapping_layers)
    with torch.device("meta"):
        shapes = shapes_of(Generator(symbolic))
    entries = list_entries(symbolic, shapes)
    sizes = vote_sizes(tensors, {entry.name: entry.shape for entry in entries})
    return GeneratorConfig(
        tuple(sizes[channel] for channel in channels),
        sizes[z_dim],
        sizes[w_dim],
        num_mapping_layers,
        conv_clamp,
    )


def nvidia_sizes(names: Container[str]) -> tuple[int, int]:
    """Count the resolutions and the mapping layers of a stylegan2-ada-pytorch generator."""
    blocks = count_numbered(
        names,
        lambda i: [f"synthesis.b{4 << i}.{part}.weight" for part in ("conv0", "conv1", "torgb")],
    )
    layers = count_numbered(names, lambda i: [f"mapping.fc{i}.{leaf}" for leaf in _LEAVES])
    return blocks, layers


def rosinality_sizes(names: Container[str]) -> tuple[int, int]:
    """Count the resolutions and the mapping layers of a rosinality/stylegan2-pytorch generator."""
    blocks = count_numbered(
        names,
        lambda i: [
            f"{part}.conv.weight"
            for part in (f"convs.{2 * i}", f"convs.{2 * i + 1}", f"to_rgbs.{i}")
        ],
    )
    layers = count_numbered(names, lambda i: [f"style.{i + 1}.{leaf}" for leaf in _LEAVES])
    return blocks + 1, layers


def count_numbered(names: Container[str], name: Callable[[int], Iterable[str]]) -> int:
    """Count 0, 1, 2, ... for as long as one of the names of a number is there."""
    return next(i for i in itertools.count() if not any(one in names for one in name(i)))


def vote_sizes(tensors: Mapping[str, Tensor], symbolic: Mapping[str, Shape]) -> dict[int, int]:
    """Find the sizes that most tensors of a checkpoint agree on.

    A single damaged tensor is outvoted, so that the check of shapes names it and no other.

    Args:
        tensors: The tensors of the checkpoint.
        symbolic: Expected shapes, in which members of `UNKNOWN` stand for unknown sizes.

    Returns:
        A size for every member of `UNKNOWN` that occurs.

    Raises:
        CheckpointError: No tensor tells one of the sizes.
    """
    votes: dict[int, Counter[int]] = {}
    for name, shape in symbolic.items():
        for size in set(shape) & set(UNKNOWN):
            votes.setdefault(size, Counter())
        got = tensors[name].shape if name in tensors else ()
        if len(got) == len(shape):
            for unknown, size in zip(shape, got, strict=True):
                if unknown in votes and size > 0:
                    votes[unknown][size] += 1
    for unknown, counter in votes.items():
        if not counter:
            name = next(name for name, shape in symbolic.items() if unknown in shape)
            wrong = f"missing tensor {name}: got {_some(tensors)}"
            if name in tensors:
                wrong = f"tensor {name}: got shape {list(tensors[name].shape)}"
            raise CheckpointError(f"{wrong}, expected a tensor of {len(symbolic[name])} axes")
    return {unknown: counter.most_common(1)[0][0] for unknown, counter in votes.items()}


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
    """Check that a checkpoint holds exactly the expected tensors, with usable values.

    Raises:
        CheckpointError: One is missing, extra, of another shape or kind, or not finite; named.
    """
    missing = [name for name in expected if name not in tensors]
    extra = [name for name in tensors if name not in expected]
    if extra:
        got = list(tensors[extra[0]].shape)
        raise CheckpointError(
            f"extra tensor {extra[0]}{_more(extra)}: got shape {got}, expected no such tensor"
            + (f"; missing tensor {missing[0]}{_more(missing)}" if missing else "")
        )
    if missing:
        raise CheckpointError(
            f"missing tensor {missing[0]}{_more(missing)}: "
            f"expected shape {list(expected[missing[0]])}"
        )
    for name, shape in expected.items():
        _check_tensor(name, tensors[name], shape)


def _check_tensor(name: str, tensor: Tensor, shape: Shape) -> None:
    if tuple(tensor.shape) != shape:
        raise CheckpointError(
            f"tensor {name}: got shape {list(tensor.shape)}, expected {list(shape)}"
        )
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        raise CheckpointError(f"tensor {name}: got a {tensor.layout} tensor, expected a dense one")
    if name.endswith(_COUNTER):
        return
    if not tensor.is_floating_point():
        raise CheckpointError(f"tensor {name}: got {tensor.dtype}, expected a floating-point type")
    # In the precision that it is computed in, which float64 exceeds.
    if not tensor.float().isfinite().all():
        raise CheckpointError(f"tensor {name}: got NaN or infinity, expected finite values")


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _some(names: Iterable[str]) -> str:
    first = list(itertools.islice(names, 4))
    return f"tensors {', '.join(first[:3])}{', ...' if len(first) > 3 else ''}"


def resampling_filter(gain: float) -> Tensor:
    """[4, 4] outer product of [1, 3, 3, 1] / 8, times the gain."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float32) / 8
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
