"""Checkpoint files in the published layouts, with deterministic weights, and the golden numbers."""

import io
import json
import pickle
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from styleclip_ops.clip import area_resize

import filler

DATA = Path(__file__).parent / "data"
SEED = 1


@cache
def golden(name: str) -> dict[str, Any]:
    """Arrays as tensors, strings as they are."""
    with np.load(DATA / f"{name}.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    return {
        key: torch.from_numpy(array) if array.dtype.kind in "fiub" else array
        for key, array in arrays.items()
    }


def golden_styles(name: str, stem: str) -> Tensor:
    """The style vectors of all layers, joined to flat style codes [N, S]."""
    arrays = golden(name)
    keys = sorted(key for key in arrays if key.startswith(stem) and key[len(stem) :].isdigit())
    first = arrays[keys[0]]
    rows = 1 if first.dim() == 1 else first.shape[0]
    return torch.cat([arrays[key].reshape(rows, -1) for key in keys], dim=1)


def spec(name: str) -> dict[str, list[int]]:
    return json.loads((DATA / "specs" / f"{name}.json").read_text())


def filled(name: str, prefix: str = "") -> dict[str, Tensor]:
    """The state dict of a spec; keys below `prefix` only, named without it, as the filler wants."""
    shapes = {
        key.removeprefix(prefix): shape
        for key, shape in spec(name).items()
        if key.startswith(prefix)
    }
    entries = [{"key": key, "shape": s, "dtype": "float32"} for key, s in shapes.items()]
    return {
        key: torch.from_numpy(np.asarray(v)) for key, v in filler.fill_spec(SEED, entries).items()
    }


def filled_one(key: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(filler.fill(SEED, key, shape, {key}))


def inp(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(filler.inp(SEED, name, shape))


def torch_file(data: Any, *, legacy: bool = False) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(data, file, _use_new_zipfile_serialization=not legacy)
    file.seek(0)
    return file


def rosinality_data(size: int) -> dict[str, Any]:
    """A fresh copy of what `stylegan2-ffhq-config-f.pt` holds."""
    state = dict(_cached_fill(f"rosinality_generator_{size}", ""))
    return {"g_ema": state, "latent_avg": filled_one("latent_avg", (512,))}


@cache
def _cached_fill(name: str, prefix: str) -> dict[str, Tensor]:
    return filled(name, prefix)


def e4e_data(size: int) -> dict[str, Any]:
    """What `e4e_ffhq_encode.pt` holds."""
    rows = 2 * size.bit_length() - 4
    state = {f"encoder.{key}": value for key, value in filled(f"e4e_{size}", "encoder.").items()}
    state |= {f"decoder.{key}": value for key, value in filled(f"e4e_{size}", "decoder.").items()}
    options = {
        "encoder_type": "Encoder4Editing",
        "stylegan_size": size,
        "start_from_latent_avg": True,
        "device": "cuda:0",
        "dataset_type": "ffhq_encode",
        "checkpoint_path": None,
    }
    return {
        "state_dict": state,
        "latent_avg": filled_one("latent_avg", (rows, 512)),
        "opts": options,
    }


def mapper_data(name: str) -> dict[str, Any]:
    """What a published mapper checkpoint holds, with a stand-in for its decoder."""
    state = {f"mapper.{key}": value for key, value in filled(name).items()}
    state["decoder.input.input"] = torch.zeros(1, 512, 4, 4)
    return {"state_dict": state, "opts": {"mapper_type": "LevelsMapper", "stylegan_size": 1024}}


# --- the network pickle of stylegan2-ada-pytorch ------------------------------------------------


def network_pickle(
    size: int,
    tensors: dict[str, Tensor] | None = None,
    conv_clamp: float | None = None,
    class_name: str = "Generator",
    protocol: int = 4,
) -> io.BytesIO:
    """A pickle with the structure of the real ones: persistent modules that carry their source."""
    tensors = filled(f"nvidia_G_ema_{size}") if tensors is None else tensors
    with pickling_modules() as (persistent, easy_dict):
        root = _persistent_module(persistent, class_name)
        root._init_args = ()
        root._init_kwargs = easy_dict(
            z_dim=512,
            c_dim=0,
            w_dim=512,
            img_resolution=size,
            img_channels=3,
            mapping_kwargs=easy_dict(num_layers=8),
            synthesis_kwargs=easy_dict(channel_base=32768, channel_max=512, conv_clamp=conv_clamp),
        )
        for key, tensor in tensors.items():
            *path, leaf = key.split(".")
            module = root
            for name in path:
                if name not in module._modules:
                    module.add_module(name, _persistent_module(persistent, "Layer"))
                module = module._modules[name]
            module.act_gain = np.sqrt(2)
            buffer = leaf in ("w_avg", "resample_filter", "noise_const")
            if buffer:
                module.register_buffer(leaf, tensor)
            else:
                module.register_parameter(leaf, nn.Parameter(tensor))
        kwargs = easy_dict(class_name="training.dataset.ImageFolderDataset", xflip=True)
        data = {"G": None, "D": None, "G_ema": root, "training_set_kwargs": kwargs}
        file = io.BytesIO()
        pickle.dump(data, file, protocol=protocol)
    file.seek(0)
    return file


def _persistent_module(persistent: type, class_name: str) -> Any:
    module = persistent()
    module._orig_class_name = class_name
    return module


@contextmanager
def pickling_modules() -> Iterator[tuple[type, type]]:
    """Stand-ins for `torch_utils.persistence` and `dnnlib.util`, for the time of the pickling."""
    persistence, util = ModuleType("torch_utils.persistence"), ModuleType("dnnlib.util")

    def _reconstruct_persistent_obj(meta: Any) -> None:
        raise AssertionError("reading must not call this")

    class EasyDict(dict):
        pass

    class Persistent(nn.Module):
        def __reduce__(self) -> Any:
            fields = self.__reduce_ex_state__()
            meta = EasyDict(
                type="class",
                version=6,
                module_src="raise SystemExit('source text of a pickle was run')",
                class_name=self._orig_class_name,
                state=fields,
            )
            return persistence._reconstruct_persistent_obj, (meta,)

        def __reduce_ex_state__(self) -> dict[str, Any]:
            hooks = {k: OrderedDict() for k, v in self.__dict__.items() if "hooks" in k and v == {}}
            return self.__dict__ | hooks

    for module, member in ((persistence, _reconstruct_persistent_obj), (util, EasyDict)):
        member.__module__ = module.__name__
        member.__qualname__ = member.__name__
        setattr(module, member.__name__, member)
    fakes = {
        "torch_utils": ModuleType("torch_utils"),
        "torch_utils.persistence": persistence,
        "dnnlib": ModuleType("dnnlib"),
        "dnnlib.util": util,
    }
    sys.modules.update(fakes)
    try:
        yield Persistent, EasyDict
    finally:
        for name in fakes:
            del sys.modules[name]


# --- the stand-in for CLIP in the golden losses -------------------------------------------------


class FakeClip:
    """tanh of the 224 px image pooled by 32, normalised: [N, 147]."""

    def embed_images(self, images: Tensor) -> Tensor:
        pooled = nn.functional.avg_pool2d(area_resize(images), 32)
        return nn.functional.normalize(pooled.flatten(1).tanh(), dim=1)


def fake_text() -> Tensor:
    """The target embedding [1, 147] of the golden losses."""
    return nn.functional.normalize(inp("fakeclip_text", (1, 147)).reshape(1, 147), dim=1)


# --- comparing images ---------------------------------------------------------------------------


def assert_image(images: Tensor, name: str, key: str, atol: float = 1e-4) -> None:
    """Compare images with everything the golden file has of them."""
    arrays = golden(name)
    close = lambda got, want: torch.testing.assert_close(got, want, atol=atol, rtol=0)  # noqa: E731
    if key in arrays:
        close(images, arrays[key])
        return
    close(images.mean((2, 3)), arrays[f"{key}_mean"])
    close(images.std((2, 3), correction=0), arrays[f"{key}_std"])
    close(nn.functional.adaptive_avg_pool2d(images, 64), arrays[f"{key}_area64"])
    crops = arrays[f"{key}_crops"]
    for index, (y, x) in enumerate(arrays[f"{key}_crops_yx"].tolist()):
        close(images[:, :, y : y + 32, x : x + 32], crops[:, index])
