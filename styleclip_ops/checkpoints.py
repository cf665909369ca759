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
    Entry,
    nvidia_config,
    nvidia_entries,
    rosinality_config,
    rosinality_entries,
    to_internal,
    to_published,
)
from styleclip_ops.stylespace import StyleSpaceLayout
from styleclip_ops.unpickling import PersistentObject

if TYPE_CHECKING:
    from styleclip_ops.clip import ClipModel, Preprocessing

# Samples for an average latent that a checkpoint does not carry; e4e's own fallback.
_W_AVG_SAMPLES = 10_000

C = TypeVar("C", E4eConfig, ArcFaceConfig)

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
            return _rosinality_generator(tensors_of(data["g_ema"], "g_ema"), data.get("latent_avg"))
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
        rows = [int(name.split(".")[1]) for name in encoder if name.startswith("styles.")]
        e4e_config = E4eConfig(num_ws=max(rows, default=17) + 1)
        encoder["latent_avg"] = _e4e_average(data.get("latent_avg"), decoder, e4e_config, options)
        return fill(skeleton(lambda: E4eEncoder(e4e_config)), encoder)


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
        else:
            tensors, _ = _parts(read_data(file), "mapper.")
            config = _infer_mapper(tensors)
        return fill(skeleton(lambda: _build_mapper(config)), tensors)


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
    from styleclip_ops.clip_checkpoints import read_clip_file, read_clip_folder

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
        data = {"g_ema": _rosinality_state(generator), "latent_avg": generator.w_avg.cpu()}
        write_torch(file, data)


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
        state |= {f"decoder.{name}": tensor for name, tensor in decoder.items()}
    with writing(destination) as file:
        write_torch(file, {"state_dict": state, "opts": dict(options)})


def _nvidia_generator(network: PersistentObject) -> Generator:
    if network.class_name != "Generator":
        raise CheckpointError(f"G_ema: got a {network.class_name}, expected a Generator")
    tensors = network.tensors()
    if any(name.startswith("mapping.embed.") for name in tensors):
        raise CheckpointError("G_ema: got a class-conditional generator, expected c_dim 0")
    clamp = _conv_clamp(network)
    config = nvidia_config({name: tuple(t.shape) for name, t in tensors.items()}, clamp)
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


def _rosinality_generator(tensors: dict[str, Tensor], w_avg: Any) -> Generator:
    config = rosinality_config({name: tuple(t.shape) for name, t in tensors.items()})
    generator = _convert_generator(config, tensors, rosinality_entries)
    if w_avg is None:
        generator.mapping.w_avg = _mean_w(generator)
        return generator
    if not isinstance(w_avg, Tensor) or w_avg.shape != (config.w_dim,):
        got = list(w_avg.shape) if isinstance(w_avg, Tensor) else describe(w_avg)
        raise CheckpointError(f"tensor latent_avg: got {got}, expected shape [{config.w_dim}]")
    generator.mapping.w_avg = w_avg.float()
    return generator


def _convert_generator(
    config: GeneratorConfig,
    tensors: dict[str, Tensor],
    list_entries: Callable[[GeneratorConfig, Mapping[str, tuple[int, ...]]], list[Entry]],
) -> Generator:
    generator = skeleton(lambda: Generator(config))
    shapes = {name: tuple(t.shape) for name, t in generator.state_dict().items()}
    entries = list_entries(config, shapes)
    converted = to_internal(tensors, entries, shapes)
    # A layout without it has it elsewhere in the file.
    converted.setdefault("mapping.w_avg", torch.zeros(config.w_dim))
    return fill(generator, converted)


def _rosinality_state(generator: Generator) -> dict[str, Tensor]:
    state = {name: tensor.cpu() for name, tensor in generator.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return to_published(state, rosinality_entries(generator.config, shapes))


@torch.no_grad()
def _mean_w(generator: Generator) -> Tensor:
    random = torch.Generator().manual_seed(0)
    z = torch.randn(_W_AVG_SAMPLES, generator.config.z_dim, generator=random)
    w: Tensor = generator.mapping(z)
    return w.mean(dim=0)


def _e4e_average(
    stored: Any, decoder: dict[str, Tensor], config: E4eConfig, options: Mapping[str, Any]
) -> Tensor:
    """The latent [num_ws, w_dim] that the encoder's offsets are relative to."""
    shape = (config.num_ws, config.w_dim)
    if not options.get("start_from_latent_avg", True):
        return torch.zeros(shape)
    if stored is None:
        return _rosinality_generator(decoder, None).w_avg.repeat(config.num_ws, 1)
    if not isinstance(stored, Tensor) or tuple(stored.shape) not in (shape, shape[1:]):
        got = list(stored.shape) if isinstance(stored, Tensor) else describe(stored)
        raise CheckpointError(f"tensor latent_avg: got {got}, expected shape {list(shape)}")
    return stored.float().expand(shape).clone()


def _parts(data: Any, prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The network under `prefix`, and the decoder, of a checkpoint that holds both."""
    what = f"network under {prefix}*"
    if not isinstance(data, Mapping) or "state_dict" not in data:
        raise CheckpointError(f"got {describe(data)}, expected a state_dict with a {what}")
    state = tensors_of(data["state_dict"], "state_dict")
    parts: dict[str, dict[str, Tensor]] = {prefix: {}, "decoder.": {}}
    for name, tensor in state.items():
        head, _, rest = name.partition(".")
        if f"{head}." not in parts:
            raise CheckpointError(f"extra tensor {name}: expected {prefix}* and decoder.* only")
        parts[f"{head}."][rest] = tensor
    if not parts[prefix]:
        raise CheckpointError(f"got {describe(state)}, expected a {what}")
    return parts[prefix], parts["decoder."]


def _options(data: Any) -> dict[str, Any]:
    options = data.get("opts", {}) if isinstance(data, Mapping) else {}
    if isinstance(options, Namespace):
        return vars(options)
    return dict(options) if isinstance(options, Mapping) else {}


def _infer_mapper(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Tell the kind of a published mapper from the names of its tensors."""
    heads = {name.split(".")[0] for name in tensors}
    widths = {name.split(".")[0]: t.shape[-1] for name, t in tensors.items() if t.dim() == 2}
    if not widths:
        raise CheckpointError(f"got {describe(tensors)}, expected the matrices of a mapper")
    w_dim = next(iter(widths.values()))
    if heads == {"mapping"}:
        return {"type": "single", "w_dim": w_dim}
    if heads <= set(_LEVEL_KEYS.values()):
        levels = {level: key in heads for level, key in _LEVEL_KEYS.items()}
        return {"type": "levels", "w_dim": w_dim, **levels}
    if all(head.startswith("mapper_") for head in heads):
        return _infer_style_space_mapper(
            {int(head.removeprefix("mapper_")): width for head, width in widths.items()}
        )
    raise CheckpointError(f"got {describe(tensors)}, expected a mapper of a published kind")


def _infer_style_space_mapper(widths: dict[int, int]) -> dict[str, Any]:
    full = any(index % 3 == 1 for index in widths)
    # The last style vector is a toRGB's; where those have no network, the one before is the last.
    count = max(widths) + (1 if full else 2)
    for index in range(count):
        if full or index % 3 != 1:
            if index not in widths:
                raise CheckpointError(f"missing tensor mapper_{index}.mapping.1.weight")
        else:
            # A toRGB reads the same features as the next block's first convolution, or the last.
            widths[index] = widths.get(index + 1, widths[index - 1])
    return {
        "type": "style_space" if full else "style_space_without_torgb",
        "style_widths": [widths[index] for index in range(count)],
    }


def _build_mapper(config: Mapping[str, Any]) -> Mapper:
    options = dict(config)
    kind = options.pop("type", None)
    try:
        if kind == "levels":
            return LevelsMapper(**options)
        if kind == "single":
            return SingleMapper(**options)
        layout = StyleSpaceLayout.from_style_widths(options["style_widths"])
    except (TypeError, KeyError, ConfigError) as error:
        raise CheckpointError(f"mapper: got architecture {dict(config)} ({error})") from error
    if kind == "style_space":
        return FullStyleSpaceMapper(layout)
    if kind == "style_space_without_torgb":
        return WithoutToRGBStyleSpaceMapper(layout)
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
        widths = [layer.channels for layer in module.layout.layers]
        return "mapper", {"type": kind, "style_widths": widths}
    raise ConfigError(f"got a {type(module).__name__}, expected a network that the loaders give")


def _generator_config(config: Mapping[str, Any]) -> GeneratorConfig:
    try:
        return GeneratorConfig(**{**config, "channels": tuple(config["channels"])})
    except (TypeError, KeyError, ConfigError) as error:
        raise CheckpointError(f"generator: got architecture {dict(config)} ({error})") from error


def _with_trunk(kind: Callable[..., C], config: Mapping[str, Any]) -> C:
    try:
        trunk = {name: tuple(value) for name, value in config["trunk"].items()}
        return kind(**{**config, "trunk": IrSeConfig(**trunk)})
    except (TypeError, KeyError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"got architecture {dict(config)} ({error})") from error
