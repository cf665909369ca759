"""CLIP weights: Hugging Face folders, and OpenAI's archives in the layout of transformers."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

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
from styleclip_ops.errors import CheckpointError
from styleclip_ops.unpickling import ScriptObject, load_torchscript

# Attributes of the archive that describe the model and are no weights.
_SIZES = ("input_resolution", "context_length", "vocab_size")

# Indices that older checkpoints store and that carry no information.
_POSITION_IDS = (
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
)

_HEAD_WIDTH = 64

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
        config = CLIPConfig(**json.loads((folder / "config.json").read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{folder}: expected a CLIP folder with a config.json ({error})"
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
        model = _fill_clip(config, tensors)
    own_tokenizer = any((folder / name).exists() for name in ("tokenizer.json", "vocab.json"))
    tokenizer = CLIPTokenizer.from_pretrained(str(folder)) if own_tokenizer else clip_tokenizer()
    return ClipModel(model, tokenizer, preprocessing)


def read_clip_file(file: BinaryIO, preprocessing: Preprocessing) -> ClipModel:
    """Read an OpenAI archive or state dict; see `styleclip_ops.checkpoints.load_clip`."""
    if file_kind(file) == "torchscript":
        tensors = dict(_script_tensors(load_torchscript(file), ""))
    else:
        data = read_data(file)
        nested = isinstance(data, Mapping) and "state_dict" in data
        tensors = tensors_of(data["state_dict"] if nested else data, "CLIP")
    tensors = {name: tensor for name, tensor in tensors.items() if name not in _SIZES}
    config = _openai_config(tensors)
    converted: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        converted.update(_convert(name, tensor.float()))
    return ClipModel(_fill_clip(config, converted), clip_tokenizer(), preprocessing)


def save_clip_folder(clip: ClipModel, folder: Path) -> None:
    """Write a CLIP model as a Hugging Face folder that `load_clip` reads, tokenizer included."""
    clip.model.save_pretrained(str(folder))
    clip.tokenizer.save_pretrained(str(folder))


def _fill_clip(config: CLIPConfig, tensors: Mapping[str, Tensor]) -> CLIPModel:
    weights = {name: tensor for name, tensor in tensors.items() if name not in _POSITION_IDS}
    model: CLIPModel = fill(skeleton(lambda: CLIPModel(config)), weights)
    # Not part of the state: they must leave the meta device by hand.
    for tower in (model.text_model, model.vision_model):
        places = tower.embeddings.position_ids
        count = torch.arange(places.shape[-1])
        tower.embeddings.register_buffer("position_ids", count[None], persistent=False)
    return model


def _script_tensors(module: ScriptObject, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in module.state.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, ScriptObject):
            yield from _script_tensors(value, f"{prefix}{name}.")


def _openai_config(tensors: Mapping[str, Tensor]) -> CLIPConfig:
    """Infer the architecture of a vision-transformer CLIP from its tensors."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    ranks = {
        "visual.conv1.weight": 4,
        "visual.positional_embedding": 2,
        "positional_embedding": 2,
        "token_embedding.weight": 2,
        "text_projection": 2,
    }
    for name, rank in ranks.items():
        if name not in shapes:
            raise CheckpointError(
                f"missing tensor {name}: not an OpenAI CLIP with a vision transformer"
            )
        if len(shapes[name]) != rank:
            raise CheckpointError(f"tensor {name}: got shape {shapes[name]}, expected {rank} axes")
    vision_width, _, _, patch = shapes["visual.conv1.weight"]
    grid = round((shapes["visual.positional_embedding"][0] - 1) ** 0.5)
    vocabulary, text_width = shapes["token_embedding.weight"]
    vision = {"image_size": patch * grid, "patch_size": patch}
    text = {
        "vocab_size": vocabulary,
        "max_position_embeddings": shapes["positional_embedding"][0],
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }
    return CLIPConfig(
        projection_dim=shapes["text_projection"][1],
        vision_config=vision | _tower(tensors, "visual.transformer.resblocks.", vision_width),
        text_config=text | _tower(tensors, "transformer.resblocks.", text_width),
    )


def _tower(tensors: Mapping[str, Tensor], prefix: str, width: int) -> dict[str, Any]:
    blocks = {name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)}
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": max(width // _HEAD_WIDTH, 1),
        "hidden_act": "quick_gelu",
    }


def _convert(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Rename one tensor of OpenAI's; an unknown name stays, for the check of names to report."""
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
    if stem in _BLOCK:
        return {f"{target}.{_BLOCK[stem]}.{leaf}": tensor}
    return {name: tensor}
