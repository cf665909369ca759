"""Reading and writing weights: published layouts at the door, one layout inside.

A checkpoint is data: files are read by loaders that construct tensors, containers and plain values,
and one that asks for code to be run is refused. Every loader gives a module in evaluation mode,
float32, on the processor, without gradients on its weights; the caller moves it.
"""

import dataclasses
from argparse import Namespace
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from styleclip_ops.checkpoint_files import (
    Source,
    describe,
    file_kind,
    fill,
    read_data,
    read_own,
    reading,
    skeleton,
    tensors_of,
    write_own,
    write_torch,
    writing,
)
from styleclip_ops.encoder import E4eConfig, E4eEncoder
from styleclip_ops.errors import CheckpointError, ConfigError
from styleclip_ops.generator import Generator, GeneratorConfig
from styleclip_ops.identity import ArcFace, ArcFaceConfig
from styleclip_ops.ir_se import IrSeConfig
from styleclip_ops.mapper import (
    FullStyleSpaceMapper,
    LevelsMapper,
    Mapper,
    SingleMapper,
    WithoutToRGBStyleSpaceMapper,
)
from styleclip_ops.published_layouts import (
    UNKNOWN,
    ListEntries,
    count_numbered,
    infer_generator_config,
    nvidia_entries,
    nvidia_sizes,
    rosinality_entries,
    rosinality_sizes,
    shapes_of,
    to_internal,
    to_published,
    vote_sizes,
)
from styleclip_ops.stylespace import StyleSpaceLayout
from styleclip_ops.unpickling import PersistentObject

if TYPE_CHECKING:
    from styleclip_ops.clip import ClipModel, Preprocessing

# Samples for an average latent that a checkpoint does not carry; e4e's own fallback.
_W_AVG_SAMPLES = 10_000

C = TypeVar("C", E4eConfig, ArcFaceConfig)

# Style layers of a 1024 px generator, the largest.
_MAX_STYLE_LAYERS = 25

_LEVEL_KEYS = {"coarse": "course_mapping", "medium": "medium_mapping", "fine": "fine_mapping"}


def load_generator(source: Source) -> Generator:
    """Read a StyleGAN2 generator.

    Args:
        source: Path or binary file of a rosinality/StyleCLIP `.pt`, a stylegan2-ada-pytorch `.pkl`
            or our safetensors.

    Returns:
        The generator. Where a rosinality file has no `latent_avg` it is the mean of 10,000 samples.

    Raises:
        UnsafeCheckpointError: The file asks for code to be run.
        CheckpointError: The file is truncated, of another architecture, or a tensor is missing,
            extra, of another shape or not finite.
    """
    with reading(source) as file:
        if file_kind(file) == "safetensors":
            tensors, config = read_own(file, "generator")
            return fill(skeleton(lambda: Generator(_generator_config(config))), tensors)
        data = read_data(file)
        if isinstance(data, Mapping) and isinstance(data.get("G_ema"), PersistentObject):
            return _nvidia_generator(data["G_ema"])
        if isinstance(data, Mapping) and "g_ema" in data:
            return _rosinality_generator(data)
        raise CheckpointError(
            f"got {describe(data)}, expected a StyleGAN2 generator under g_ema (rosinality) or "
            "G_ema (stylegan2-ada-pytorch; its legacy.py converts TensorFlow pickles)"
        )


def load_e4e(source: Source) -> E4eEncoder:
    """Read an e4e encoder.

    Args:
        source: Path or binary file of a published checkpoint (`e4e_ffhq_encode.pt` and others of
            that layout, whose decoder is not read) or our safetensors.

    Returns:
        The encoder, its average latent included.

    Raises:
        UnsafeCheckpointError: The file asks for code to be run.
        CheckpointError: See `load_generator`; also for encoders of another kind (pSp).
    """
    with reading(source) as file:
        if file_kind(file) == "safetensors":
            tensors, config = read_own(file, "e4e")
            return fill(skeleton(lambda: E4eEncoder(_with_trunk(E4eConfig, config))), tensors)
        data = read_data(file)
        options = _options(data)
        kind = options.get("encoder_type", "Encoder4Editing")
        if kind != "Encoder4Editing":
            raise CheckpointError(f"got an encoder of type {kind!r}, expected 'Encoder4Editing'")
        encoder, decoder = _parts(data, "encoder.")
        e4e_config = E4eConfig(num_ws=_num_ws(encoder, data.get("latent_avg"), options))
        average = _e4e_average(data.get("latent_avg"), decoder, e4e_config, options)
        encoder["encoder.latent_avg"] = average
        return fill(skeleton(lambda: E4eEncoder(e4e_config)), encoder, "encoder.")


def load_arcface(source: Source) -> ArcFace:
    """Read an ArcFace identity network.

    Args:
        source: Path or binary file of the published `model_ir_se50.pth` (a bare state dict) or our
            safetensors.

    Returns:
        The identity network.

    Raises:
        UnsafeCheckpointError: The file asks for code to be run.
        CheckpointError: See `load_generator`.
    """
    with reading(source) as file:
        if file_kind(file) == "safetensors":
            tensors, config = read_own(file, "arcface")
            return fill(skeleton(lambda: ArcFace(_with_trunk(ArcFaceConfig, config))), tensors)
        tensors = tensors_of(read_data(file), "identity network")
        return fill(skeleton(lambda: ArcFace(ArcFaceConfig())), tensors)


def load_mapper(source: Source) -> Mapper:
    """Read a latent mapper.

    Args:
        source: Path or binary file of a published mapper checkpoint (the decoder in it is not read)
            or our safetensors.

    Returns:
        The mapper, of the kind and with the levels that the file holds.

    Raises:
        UnsafeCheckpointError: The file asks for code to be run.
        CheckpointError: See `load_generator`.
    """
    with reading(source) as file:
        if file_kind(file) == "safetensors":
            tensors, config = read_own(file, "mapper")
            return fill(skeleton(lambda: _build_mapper(config)), tensors)
        tensors, _ = _parts(read_data(file), "mapper.")
        return fill(skeleton(_infer_mapper(tensors)), tensors, "mapper.")


def load_clip(source: Source, preprocessing: "Preprocessing" = "clip") -> "ClipModel":
    """Read a CLIP model.

    Args:
        source: Path of a Hugging Face folder (config.json with model.safetensors or
            pytorch_model.bin, and its tokenizer where it has one), or path or binary file of
            OpenAI's original archive (`ViT-B-32.pt`) or a state dict with its names.
        preprocessing: See `styleclip_ops.clip.ClipModel`.

    Returns:
        The model.

    Raises:
        UnsafeCheckpointError: The file asks for code to be run.
        CheckpointError: See `load_generator`.
    """
    # transformers takes seconds to import, and no other loader needs it.
    from styleclip_ops.clip import check_preprocessing
    from styleclip_ops.clip_checkpoints import read_clip_file, read_clip_folder

    check_preprocessing(preprocessing)
    if isinstance(source, str | PathLike) and Path(source).is_dir():
        return read_clip_folder(Path(source), preprocessing)
    with reading(source) as file:
        return read_clip_file(file, preprocessing)


def save_safetensors(module: nn.Module, destination: Source) -> None:
    """Write a generator, encoder, identity network or mapper in our own format.

    Args:
        module: What one of the loaders gives, but for CLIP (which has `save_clip_folder`).
        destination: Path or binary file.

    Raises:
        ConfigError: The module is of another kind.
    """
    kind, config = _describe_module(module)
    with writing(destination) as file:
        write_own(file, kind, config, module.state_dict())


def save_rosinality_generator(generator: Generator, destination: Source) -> None:
    """Write a generator in the layout of rosinality/stylegan2-pytorch and StyleCLIP.

    Args:
        generator: The generator.
        destination: Path or binary file.

    Raises:
        ConfigError: The generator clamps its convolutions, which that layout cannot express.
    """
    if generator.config.conv_clamp is not None:
        raise ConfigError(
            f"generator: got conv_clamp={generator.config.conv_clamp}, expected None; the "
            "rosinality layout has no clamp and its code would render other images"
        )
    with writing(destination) as file:
        state = _rosinality_state(generator)
        w_avg = state.pop("latent_avg")
        write_torch(file, {"g_ema": state, "latent_avg": w_avg})


def save_published_mapper(
    mapper: Mapper,
    destination: Source,
    options: Mapping[str, Any],
    generator: Generator | None = None,
) -> None:
    """Write a mapper in the layout of the published mapper checkpoints.

    Args:
        mapper: The mapper.
        destination: Path or binary file.
        options: Plain values for `opts`; the published inference reads `mapper_type`,
            `no_coarse_mapper`, `no_medium_mapper`, `no_fine_mapper`, `stylegan_size`.
        generator: Written as the decoder, which the published inference needs.
    """
    state = {f"mapper.{name}": tensor for name, tensor in mapper.state_dict().items()}
    if generator is not None:
        decoder = _rosinality_state(generator)
        del decoder["latent_avg"]
        state |= {f"decoder.{name}": tensor for name, tensor in decoder.items()}
    with writing(destination) as file:
        write_torch(file, {"state_dict": state, "opts": dict(options)})


def _nvidia_generator(network: PersistentObject) -> Generator:
    if network.class_name != "Generator":
        raise CheckpointError(f"G_ema: got a {network.class_name}, expected a Generator")
    tensors = network.tensors()
    if any(name.startswith("mapping.embed.") for name in tensors):
        raise CheckpointError("G_ema: got a class-conditional generator, expected c_dim 0")
    blocks, layers = nvidia_sizes(tensors)
    config = infer_generator_config(tensors, nvidia_entries, blocks, layers, _conv_clamp(network))
    return _convert_generator(config, tensors, nvidia_entries)


def _conv_clamp(network: PersistentObject) -> float | None:
    """The clamp that the network was built with, from a layer or from its arguments."""
    layer = network.submodule("synthesis", "b4", "conv1")
    if layer is not None and "conv_clamp" in layer.state:
        value = layer.state["conv_clamp"]
    else:
        arguments = network.state.get("_init_kwargs", {}).get("synthesis_kwargs", {})
        value = arguments.get("conv_clamp")
    return None if value is None else float(value)


def _rosinality_generator(data: Mapping[str, Any]) -> Generator:
    tensors = tensors_of(data["g_ema"], "g_ema")
    if data.get("latent_avg") is not None:
        tensors |= tensors_of({"latent_avg": data["latent_avg"]}, "latent_avg")
    blocks, layers = rosinality_sizes(tensors)
    config = infer_generator_config(tensors, rosinality_entries, blocks, layers)
    if "latent_avg" in tensors:
        return _convert_generator(config, tensors, rosinality_entries)
    tensors["latent_avg"] = torch.zeros(config.w_dim)
    generator = _convert_generator(config, tensors, rosinality_entries)
    generator.mapping.w_avg = _mean_w(generator)
    return generator


def _convert_generator(
    config: GeneratorConfig, tensors: dict[str, Tensor], list_entries: ListEntries
) -> Generator:
    generator = skeleton(lambda: Generator(config))
    shapes = shapes_of(generator)
    return fill(generator, to_internal(tensors, list_entries(config, shapes), shapes))


def _rosinality_state(generator: Generator) -> dict[str, Tensor]:
    state = {name: tensor.cpu() for name, tensor in generator.state_dict().items()}
    return to_published(state, rosinality_entries(generator.config, shapes_of(generator)))


@torch.no_grad()
def _mean_w(generator: Generator) -> Tensor:
    random = torch.Generator().manual_seed(0)
    shape = (_W_AVG_SAMPLES, generator.config.z_dim)
    z = torch.randn(shape, generator=random, dtype=torch.float32)
    w: Tensor = generator.mapping(z)
    return w.mean(dim=0)


def _num_ws(encoder: Mapping[str, Tensor], average: Any, options: Mapping[str, Any]) -> int:
    """The rows of W+ that most of a checkpoint's signs agree on."""
    heads = count_numbered(
        encoder, lambda i: [f"encoder.styles.{i}.linear.{leaf}" for leaf in ("weight", "bias")]
    )
    signs = [heads]
    if isinstance(average, Tensor) and average.dim() == 2:
        signs.append(len(average))
    size = options.get("stylegan_size")
    if isinstance(size, int) and size > 0:
        signs.append(2 * size.bit_length() - 4)
    return max(signs, key=signs.count)


def _e4e_average(
    stored: Any, decoder: dict[str, Tensor], config: E4eConfig, options: Mapping[str, Any]
) -> Tensor:
    """The latent [num_ws, w_dim] that the encoder's offsets are relative to."""
    shape = (config.num_ws, config.w_dim)
    if not options.get("start_from_latent_avg", True):
        return torch.zeros(shape)
    if stored is None:
        state = {name.removeprefix("decoder."): tensor for name, tensor in decoder.items()}
        return _rosinality_generator({"g_ema": state}).w_avg.repeat(config.num_ws, 1)
    if not isinstance(stored, Tensor) or tuple(stored.shape) not in (shape, shape[1:]):
        got = list(stored.shape) if isinstance(stored, Tensor) else describe(stored)
        raise CheckpointError(f"tensor latent_avg: got {got}, expected shape {list(shape)}")
    return stored.expand(shape).clone()


def _parts(data: Any, prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors under `prefix`, and those of the decoder, of a checkpoint that holds both."""
    if not isinstance(data, Mapping) or "state_dict" not in data:
        raise CheckpointError(f"got {describe(data)}, expected a state_dict with {prefix}*")
    state = tensors_of(data["state_dict"], "state_dict")
    decoder = {name: tensor for name, tensor in state.items() if name.startswith("decoder.")}
    network = {name: tensor for name, tensor in state.items() if name not in decoder}
    if not any(name.startswith(prefix) for name in network):
        raise CheckpointError(f"got {describe(state)}, expected tensors under {prefix}*")
    return network, decoder


def _options(data: Any) -> dict[str, Any]:
    options = data.get("opts", {}) if isinstance(data, Mapping) else {}
    if isinstance(options, Namespace):
        return vars(options)
    return dict(options) if isinstance(options, Mapping) else {}


def _infer_mapper(tensors: Mapping[str, Tensor]) -> Callable[[], Mapper]:
    """Tell the kind and sizes of a published mapper from its tensors."""
    heads = {name.split(".")[1] for name in tensors if name.count(".") > 1}
    styles = [int(h[7:]) for h in heads if h.startswith("mapper_") and h[7:].isdecimal()]
    if styles:
        # Entries come as conv1, toRGB, then triples; the toRGB ones may have no network.
        blocks = (min(max(styles), _MAX_STYLE_LAYERS) + 1) // 3 + 1
        full = any(index % 3 == 1 for index in styles)
        kind = FullStyleSpaceMapper if full else WithoutToRGBStyleSpaceMapper
        channels = UNKNOWN[: max(blocks, 2)]
        sizes = _mapper_sizes(tensors, lambda: kind(StyleSpaceLayout.from_channels(channels)))
        layout = StyleSpaceLayout.from_channels([sizes[channel] for channel in channels])
        return lambda: kind(layout)
    unknown = UNKNOWN[0]
    if "mapping" in heads:
        sizes = _mapper_sizes(tensors, lambda: SingleMapper(unknown))
        return lambda: SingleMapper(sizes[unknown])
    levels = {level: key in heads for level, key in _LEVEL_KEYS.items()}
    if not any(levels.values()):
        raise CheckpointError(f"got {describe(tensors)}, expected a mapper of a published kind")
    sizes = _mapper_sizes(tensors, lambda: LevelsMapper(**levels, w_dim=unknown))
    return lambda: LevelsMapper(**levels, w_dim=sizes[unknown])


def _mapper_sizes(tensors: Mapping[str, Tensor], symbolic: Callable[[], Mapper]) -> dict[int, int]:
    shapes = shapes_of(skeleton(symbolic))
    return vote_sizes(tensors, {f"mapper.{name}": shape for name, shape in shapes.items()})


def _build_mapper(config: Mapping[str, Any]) -> Mapper:
    options = dict(config)
    kind = options.pop("type", None)
    if kind == "levels":
        return LevelsMapper(**options)
    if kind == "single":
        return SingleMapper(**options)
    if kind == "style_space":
        return FullStyleSpaceMapper(StyleSpaceLayout.from_channels(options["channels"]))
    if kind == "style_space_without_torgb":
        return WithoutToRGBStyleSpaceMapper(StyleSpaceLayout.from_channels(options["channels"]))
    raise CheckpointError(f"mapper: got type {kind!r}, expected one that this version knows")


def _describe_module(module: nn.Module) -> tuple[str, dict[str, Any]]:
    if isinstance(module, Generator):
        return "generator", dataclasses.asdict(module.config)
    if isinstance(module, E4eEncoder):
        return "e4e", dataclasses.asdict(module.config)
    if isinstance(module, ArcFace):
        return "arcface", dataclasses.asdict(module.config)
    if isinstance(module, LevelsMapper):
        levels = dict(zip(_LEVEL_KEYS, module.levels, strict=True))
        return "mapper", {"type": "levels", "w_dim": module.w_dim, **levels}
    if isinstance(module, SingleMapper):
        return "mapper", {"type": "single", "w_dim": module.w_dim}
    if isinstance(module, FullStyleSpaceMapper):
        partial = isinstance(module, WithoutToRGBStyleSpaceMapper)
        kind = "style_space_without_torgb" if partial else "style_space"
        return "mapper", {"type": kind, "channels": module.layout.channels}
    raise ConfigError(f"got a {type(module).__name__}, expected a network that the loaders give")


def _generator_config(config: Mapping[str, Any]) -> GeneratorConfig:
    return GeneratorConfig(**{**config, "channels": tuple(config["channels"])})


def _with_trunk(kind: Callable[..., C], config: Mapping[str, Any]) -> C:
    trunk = {name: tuple(value) for name, value in config["trunk"].items()}
    return kind(**{**config, "trunk": IrSeConfig(**trunk)})
