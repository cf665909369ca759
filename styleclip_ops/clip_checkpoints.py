"""CLIP weights: Hugging Face folders, and OpenAI's archives in the layout of transformers."""

import errno
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from styleclip_ops.checkpoint_files import (
    file_kind,
    fill,
    read_data,
    read_safetensors,
    reading,
    skeleton,
    tensors_of,
)
from styleclip_ops.clip import ClipModel, Preprocessing, clip_tokenizer
from styleclip_ops.errors import MAX_WIDTH, CheckpointError
from styleclip_ops.published_layouts import (
    UNKNOWN,
    Shape,
    check_tensors,
    count_numbered,
    vote_sizes,
)
from styleclip_ops.unpickling import ScriptObject, load_torchscript, walk_modules

# Attributes of the archive that describe the model and are no weights.
_SIZES = ("input_resolution", "context_length", "vocab_size")

# Indices that older checkpoints store and that carry no information.
_POSITION_IDS = (
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
)

_HEAD_WIDTH = 64
_MOST_LAYERS = 100
_CONTEXT = 77
_VOCABULARY = 49408

_TOP_LEVEL = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
}

_BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def read_clip_folder(folder: Path, preprocessing: Preprocessing) -> ClipModel:
    """Read a Hugging Face folder; see `styleclip_ops.checkpoints.load_clip`."""
    try:
        values = json.loads((folder / "config.json").read_text("utf-8"))
        _check_numbers(values)
        config = CLIPConfig(**values)
        model = skeleton(lambda: CLIPModel(config))
    except Exception as error:
        if _is_of_the_machine(error):
            raise
        raise CheckpointError(
            f"{folder}: expected a CLIP folder with a config.json ({type(error).__name__}: {error})"
        ) from error
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            break
    else:
        raise CheckpointError(f"{folder}: expected model.safetensors or pytorch_model.bin")
    with reading(folder / name) as file:
        if file_kind(file) == "safetensors":
            tensors, _ = read_safetensors(file)
        else:
            tensors = tensors_of(read_data(file), "CLIP")
        model = _fill_clip(model, tensors)
    return ClipModel(model, _folder_tokenizer(folder), preprocessing)


def _is_of_the_machine(error: Exception) -> bool:
    """Whether the disk or memory failed, and not what the folder holds, as in `reading`."""
    # Of what a tokenizer's files hold transformers raises OSErrors without a number.
    files = (None, errno.ENOENT, errno.EISDIR, errno.EINVAL)
    is_disk = isinstance(error, OSError) and error.errno not in files
    return is_disk or isinstance(error, MemoryError)


def _check_numbers(values: Any, name: str = "config.json") -> None:
    """Refuse sizes that would take all memory before the weights could contradict them."""
    if isinstance(values, dict):
        for key, value in values.items():
            _check_numbers(value, key)
    elif isinstance(values, list):
        for value in values:
            _check_numbers(value, name)
    elif isinstance(values, int | float):
        most = _MOST_LAYERS if name == "num_hidden_layers" else MAX_WIDTH
        if not abs(values) <= most:
            raise CheckpointError(f"{name}: got {values}, expected at most {most:,}")


def _folder_tokenizer(folder: Path) -> CLIPTokenizer:
    if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")):
        return clip_tokenizer()
    try:
        return CLIPTokenizer.from_pretrained(str(folder))
    except Exception as error:
        if _is_of_the_machine(error):
            raise
        raise CheckpointError(
            f"{folder}: got a tokenizer that cannot be read ({type(error).__name__}: {error})"
        ) from error


def read_clip_file(file: BinaryIO, preprocessing: Preprocessing) -> ClipModel:
    """Read an OpenAI archive or state dict; see `styleclip_ops.checkpoints.load_clip`."""
    if file_kind(file) == "torchscript":
        tensors = dict(_script_tensors(load_torchscript(file)))
    else:
        data = read_data(file)
        nested = isinstance(data, Mapping) and "state_dict" in data
        tensors = tensors_of(data["state_dict"] if nested else data, "CLIP")
    tensors = {name: tensor for name, tensor in tensors.items() if name not in _SIZES}
    config = _openai_config(tensors)
    converted: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        converted.update(_convert(name, tensor.float()))
    model = _fill_clip(skeleton(lambda: CLIPModel(config)), converted)
    return ClipModel(model, clip_tokenizer(), preprocessing)


def save_clip_folder(clip: ClipModel, folder: Path) -> None:
    """Write a CLIP model as a Hugging Face folder that `load_clip` reads, tokenizer included."""
    folder.mkdir(parents=True, exist_ok=True)
    clip.model.config.to_json_file(str(folder / "config.json"))
    state = {name: tensor.contiguous() for name, tensor in clip.model.state_dict().items()}
    safetensors.torch.save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    clip.tokenizer.save_pretrained(str(folder))


def _fill_clip(model: CLIPModel, tensors: Mapping[str, Tensor]) -> CLIPModel:
    weights = {name: tensor for name, tensor in tensors.items() if name not in _POSITION_IDS}
    fill(model, weights)
    # Not part of the state: they must leave the meta device by hand.
    for tower in (model.text_model, model.vision_model):
        places = tower.embeddings.position_ids
        count = torch.arange(places.shape[-1])
        tower.embeddings.register_buffer("position_ids", count[None], persistent=False)
    return model


def _script_tensors(root: ScriptObject) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in walk_modules(root, lambda module: module.state):
        for name, value in module.state.items():
            if isinstance(value, Tensor):
                yield prefix + name, value


def _openai_config(tensors: Mapping[str, Tensor]) -> CLIPConfig:
    """Check OpenAI's tensors under their own names, and infer the architecture from them."""
    vision, text, embedding, patch, positions = UNKNOWN[:5]
    depths = [_depth(tensors, tower) for tower in ("visual.transformer", "transformer")]
    symbolic = _openai_shapes(vision, text, embedding, patch, positions, *depths)
    sizes = vote_sizes(tensors, symbolic)
    vision, text, embedding, patch, positions = (sizes[unknown] for unknown in UNKNOWN[:5])
    check_tensors(tensors, _openai_shapes(vision, text, embedding, patch, positions, *depths))
    grid = math.isqrt(positions - 1)
    if not grid or grid**2 != positions - 1:
        raise CheckpointError(
            f"tensor visual.positional_embedding: got {positions} rows, expected one more than a "
            "square number of patches"
        )
    if vision % _HEAD_WIDTH or text % _HEAD_WIDTH:
        raise CheckpointError(
            f"CLIP: got widths {vision} and {text}, expected multiples of {_HEAD_WIDTH}"
        )
    return CLIPConfig(
        projection_dim=embedding,
        vision_config={"image_size": patch * grid, "patch_size": patch} | _tower(vision, depths[0]),
        text_config={
            "vocab_size": _VOCABULARY,
            "max_position_embeddings": _CONTEXT,
            "bos_token_id": _VOCABULARY - 2,
            "eos_token_id": _VOCABULARY - 1,
            "pad_token_id": _VOCABULARY - 1,
        }
        | _tower(text, depths[1]),
    )


def _depth(tensors: Mapping[str, Tensor], tower: str) -> int:
    return count_numbered(
        tensors,
        lambda i: [f"{tower}.resblocks.{i}.{part}" for part in ("ln_1.weight", "ln_2.bias")],
    )


def _openai_shapes(
    vision: int,
    text: int,
    embedding: int,
    patch: int,
    positions: int,
    vision_depth: int,
    text_depth: int,
) -> dict[str, Shape]:
    """The tensors of OpenAI's CLIP with vision transformer, and their shapes."""
    shapes: dict[str, Shape] = {
        "logit_scale": (),
        "visual.conv1.weight": (vision, 3, patch, patch),
        "visual.class_embedding": (vision,),
        "visual.positional_embedding": (positions, vision),
        "visual.proj": (vision, embedding),
        "positional_embedding": (_CONTEXT, text),
        "token_embedding.weight": (_VOCABULARY, text),
        "text_projection": (text, embedding),
    }
    norms = [("visual.ln_pre", vision), ("visual.ln_post", vision), ("ln_final", text)]
    towers = [("visual.transformer", vision, vision_depth), ("transformer", text, text_depth)]
    for tower, width, depth in towers:
        for index in range(depth):
            stem = f"{tower}.resblocks.{index}"
            norms += [(f"{stem}.ln_1", width), (f"{stem}.ln_2", width)]
            shapes |= {
                f"{stem}.attn.in_proj_weight": (3 * width, width),
                f"{stem}.attn.in_proj_bias": (3 * width,),
                f"{stem}.attn.out_proj.weight": (width, width),
                f"{stem}.attn.out_proj.bias": (width,),
                f"{stem}.mlp.c_fc.weight": (4 * width, width),
                f"{stem}.mlp.c_fc.bias": (4 * width,),
                f"{stem}.mlp.c_proj.weight": (width, 4 * width),
                f"{stem}.mlp.c_proj.bias": (width,),
            }
    for name, width in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes


def _tower(width: int, depth: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": width // _HEAD_WIDTH,
        "hidden_act": "quick_gelu",
    }


def _convert(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Rename one tensor of OpenAI's, splitting the joint projections."""
    if name in ("visual.proj", "text_projection"):
        return {_TOP_LEVEL[name]: tensor.t().contiguous()}
    if name in _TOP_LEVEL:
        return {_TOP_LEVEL[name]: tensor}
    tower = "vision_model" if name.startswith("visual.") else "text_model"
    place = name.removeprefix("visual.").removeprefix("transformer.resblocks.")
    number, _, rest = place.partition(".")
    stem, _, leaf = rest.rpartition(".")
    target = f"{tower}.encoder.layers.{number}"
    if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
        leaf = rest.rpartition("_")[2]
        parts = zip("qkv", tensor.chunk(3), strict=True)
        return {f"{target}.self_attn.{part}_proj.{leaf}": value.clone() for part, value in parts}
    return {f"{target}.{_BLOCK[stem]}.{leaf}": tensor}
