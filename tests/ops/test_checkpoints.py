"""Reading and writing weights: round trips, and every way in which a file can be wrong."""

import argparse
import io
import json
import os
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from styleclip_ops.checkpoint_files import read_data, read_safetensors
from styleclip_ops.checkpoints import (
    load_arcface,
    load_clip,
    load_e4e,
    load_generator,
    load_mapper,
    save_published_mapper,
    save_rosinality_generator,
    save_safetensors,
)
from styleclip_ops.encoder import E4eConfig, E4eEncoder
from styleclip_ops.errors import CheckpointError, ConfigError, UnsafeCheckpointError
from styleclip_ops.generator import Generator
from styleclip_ops.identity import ArcFace, ArcFaceConfig
from styleclip_ops.ir_se import IrSeConfig
from styleclip_ops.mapper import (
    FullStyleSpaceMapper,
    LevelsMapper,
    Mapper,
    SingleMapper,
    WithoutToRGBStyleSpaceMapper,
)
from styleclip_ops.unpickling import load_network_pickle

from conftest import random_generator
from published import filled, network_pickle, pickling_modules, rosinality_data, torch_file

LOADERS = [load_generator, load_e4e, load_arcface, load_mapper]

SMALL = IrSeConfig(depths=(1, 1, 1, 1), widths=(16, 16, 16, 24))


def written(save: Callable[[Any], None]) -> io.BytesIO:
    file = io.BytesIO()
    save(file)
    file.seek(0)
    return file


def own(module: nn.Module) -> io.BytesIO:
    return written(lambda file: save_safetensors(module, file))


def assert_same_weights(a: nn.Module, b: nn.Module) -> None:
    assert type(a) is type(b)
    left, right = a.state_dict(), b.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


# --- round trips --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published_generator() -> Generator:
    return load_generator(torch_file(rosinality_data(64)))


def test_published_to_safetensors_and_back_gives_identical_images(
    published_generator: Generator, tmp_path: Path
) -> None:
    path = tmp_path / "generator.safetensors"
    save_safetensors(published_generator, path)
    again = load_generator(path)
    assert again.config == published_generator.config
    w_plus = torch.randn(1, 10, 512)
    assert torch.equal(again(w_plus), published_generator(w_plus))


def test_safetensors_to_published_and_back(generator: Generator, w_plus: Tensor) -> None:
    file = written(lambda file: save_rosinality_generator(generator, file))
    again = load_generator(file)
    assert_same_weights(again, generator)
    assert torch.equal(again(w_plus), generator(w_plus))


def test_published_file_is_rewritten_exactly(published_generator: Generator) -> None:
    file = written(lambda file: save_rosinality_generator(published_generator, file))
    got, want = torch.load(file, weights_only=True), rosinality_data(64)
    assert got["g_ema"].keys() == want["g_ema"].keys()
    assert all(torch.equal(got["g_ema"][name], value) for name, value in want["g_ema"].items())
    assert torch.equal(got["latent_avg"], want["latent_avg"])


def test_legacy_torch_files(published_generator: Generator) -> None:
    again = load_generator(torch_file(rosinality_data(64), legacy=True))
    assert_same_weights(again, published_generator)


def test_network_pickle_keeps_the_clamp() -> None:
    generator = load_generator(network_pickle(64, conv_clamp=256))
    assert generator.config.conv_clamp == 256
    assert load_generator(own(generator)).config.conv_clamp == 256
    with pytest.raises(ConfigError, match="conv_clamp=256"):
        save_rosinality_generator(generator, io.BytesIO())


def test_loaded_networks_are_ready_to_use(published_generator: Generator) -> None:
    assert not published_generator.training
    assert all(parameter.dtype == torch.float32 for parameter in published_generator.parameters())
    assert not any(parameter.requires_grad for parameter in published_generator.parameters())


@pytest.mark.parametrize(
    "encoder",
    [
        E4eEncoder(E4eConfig(num_ws=8, w_dim=20, input_size=32, trunk=SMALL)),
        E4eEncoder(E4eConfig(num_ws=10, w_dim=32, input_size=64, trunk=SMALL)),
    ],
)
def test_small_encoders(encoder: E4eEncoder) -> None:
    encoder.latent_avg.normal_()
    again = load_e4e(own(encoder.eval()))
    assert_same_weights(again, encoder)
    size = encoder.config.input_size
    images = torch.randn(2, 3, size, size)
    assert torch.equal(again(images), encoder(images))
    assert again(images).shape == (2, encoder.config.num_ws, encoder.config.w_dim)


def test_small_identity_network() -> None:
    arcface = ArcFace(ArcFaceConfig(embedding_dim=40, trunk=SMALL)).eval()
    again = load_arcface(own(arcface))
    assert_same_weights(again, arcface)
    torch.testing.assert_close(again.embed(torch.randn(2, 3, 64, 64)).norm(dim=1), torch.ones(2))


@pytest.fixture
def mappers(generator: Generator) -> list[Mapper]:
    return [
        LevelsMapper(w_dim=28),
        LevelsMapper(medium=False, w_dim=28),
        SingleMapper(w_dim=28),
        FullStyleSpaceMapper(generator.layout),
        WithoutToRGBStyleSpaceMapper(generator.layout),
    ]


def test_mappers_in_our_format(mappers: list[Mapper]) -> None:
    for mapper in mappers:
        assert_same_weights(load_mapper(own(mapper)), mapper)


def test_mappers_in_the_published_format(mappers: list[Mapper], generator: Generator) -> None:
    for mapper in mappers:
        file = written(
            lambda file, mapper=mapper: save_published_mapper(
                mapper, file, {"stylegan_size": 32}, generator
            )
        )
        again = load_mapper(file)
        assert_same_weights(again, mapper)
        if isinstance(again, FullStyleSpaceMapper):
            assert again.layout == generator.layout


# --- what published files leave out -------------------------------------------------------------


def test_an_average_latent_that_is_missing_is_computed() -> None:
    data = rosinality_data(64)
    del data["latent_avg"]
    generator = load_generator(torch_file(data))
    mean = generator.mapping(torch.randn(4000, 512)).mean(dim=0)
    assert (generator.w_avg - mean).square().mean().sqrt() < 0.05 * mean.std() + 0.05


def small_e4e_data() -> dict[str, Any]:
    """A published e4e file is a gigabyte; the layout is the same for a few rows of W+."""
    encoder = E4eEncoder(E4eConfig(num_ws=2))
    state = {f"encoder.{k}": v for k, v in encoder.state_dict().items() if k != "latent_avg"}
    decoder = {f"decoder.{k}": v for k, v in rosinality_data(64)["g_ema"].items()}
    return {
        "state_dict": state | decoder,
        "latent_avg": torch.randn(2, 512),
        "opts": {"encoder_type": "Encoder4Editing", "start_from_latent_avg": True},
    }


@pytest.fixture(scope="module")
def e4e_file() -> dict[str, Any]:
    return small_e4e_data()


def test_e4e_average_latent(e4e_file: dict[str, Any]) -> None:
    average = e4e_file["latent_avg"]
    assert torch.equal(load_e4e(torch_file(e4e_file)).latent_avg, average)
    one_row = e4e_file | {"latent_avg": average[0]}
    assert torch.equal(load_e4e(torch_file(one_row)).latent_avg, average[:1].expand(2, -1))
    without = {key: value for key, value in e4e_file.items() if key != "latent_avg"}
    decoder = rosinality_data(64)
    del decoder["latent_avg"]
    computed = load_e4e(torch_file(without)).latent_avg
    torch.testing.assert_close(
        computed, load_generator(torch_file(decoder)).w_avg.expand(2, -1), atol=1e-6, rtol=0
    )
    options = argparse.Namespace(start_from_latent_avg=False)
    unused = load_e4e(torch_file(e4e_file | {"opts": options})).latent_avg
    assert (unused == 0).all()


def test_an_encoder_of_another_kind_is_refused(e4e_file: dict[str, Any]) -> None:
    options = {"encoder_type": "GradualStyleEncoder"}
    with pytest.raises(CheckpointError, match="'GradualStyleEncoder', expected 'Encoder4Editing'"):
        load_e4e(torch_file(e4e_file | {"opts": options}))
    with pytest.raises(CheckpointError, match=r"latent_avg: got \[3, 512\], expected shape \[2, 5"):
        load_e4e(torch_file(e4e_file | {"latent_avg": torch.zeros(3, 512)}))


# --- files that are wrong -----------------------------------------------------------------------


@cache
def small_states() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of a small generator in the rosinality layout, and in ours."""
    generator = random_generator()
    file = written(lambda file: save_rosinality_generator(generator, file))
    data = torch.load(file, weights_only=True)
    return data["g_ema"] | {"latent_avg": data["latent_avg"]}, generator.state_dict()


def rosinality_small() -> dict[str, Any]:
    state = dict(small_states()[0])
    w_avg = state.pop("latent_avg")
    return {"g_ema": state, "latent_avg": w_avg}


def nvidia_small() -> dict[str, Tensor]:
    state = dict(small_states()[1])
    for block in (4, 8, 16, 32):
        for stem in (f"b{block}", f"b{block}.conv1", *([f"b{block}.conv0"] if block > 4 else [])):
            taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
            state[f"synthesis.{stem}.resample_filter"] = torch.outer(taps, taps)
    return state


def test_small_network_pickle(generator: Generator) -> None:
    assert_same_weights(load_generator(network_pickle(32, nvidia_small())), generator)


TENSOR = "convs.1.conv.modulation.weight"


def remove(state: dict[str, Tensor], name: str) -> None:
    del state[name]


def add(state: dict[str, Tensor], name: str) -> None:
    state["convs.1.conv.surprise"] = torch.zeros(3)


def reshape(state: dict[str, Tensor], name: str) -> None:
    state[name] = state[name].flatten()


def poison(state: dict[str, Tensor], name: str) -> None:
    state[name] = state[name].clone().fill_(torch.nan)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove, r"missing tensor .*expected shape \["),
        (add, r"extra tensor .*surprise: got shape \[3\]"),
        (reshape, r"{name}: got shape \[\d+\], expected \["),
        (poison, r"got NaN or infinity"),
    ],
)
def test_a_damaged_tensor_is_named(
    damage: Callable[[dict[str, Tensor], str], None], message: str
) -> None:
    data = rosinality_small()
    damage(data["g_ema"], TENSOR)
    with pytest.raises(CheckpointError, match=message.format(name=TENSOR)):
        load_generator(torch_file(data))
    name = "synthesis.b8.conv1.affine.weight"
    tensors = nvidia_small()
    damage(tensors, name)
    with pytest.raises(CheckpointError, match=message.format(name=name)):
        load_generator(network_pickle(32, tensors))


@pytest.mark.parametrize("name", list(rosinality_small()["g_ema"]))
def test_every_missing_tensor_is_named(name: str) -> None:
    data = rosinality_small()
    del data["g_ema"][name]
    with pytest.raises(CheckpointError, match=rf"missing tensor {name}|{name}.*expected"):
        load_generator(torch_file(data))


def damaged_names() -> list[str]:
    """Every third tensor: some of each kind."""
    return [name for name in rosinality_small()["g_ema"] if "kernel" not in name][::3]


@pytest.mark.parametrize("name", damaged_names())
@pytest.mark.parametrize("kind", ["shape", "integer", "complex", "nan"])
def test_the_damaged_tensor_itself_is_named(name: str, kind: str) -> None:
    data = rosinality_small()
    tensor = data["g_ema"][name]
    data["g_ema"][name] = {
        "shape": tensor[..., None].repeat_interleave(2, dim=0),
        "integer": tensor.long(),
        "complex": tensor + 0j,
        "nan": tensor * torch.nan,
    }[kind]
    with pytest.raises(CheckpointError, match=f"tensor {name}: got"):
        load_generator(torch_file(data))


@pytest.mark.parametrize("name", ["conv1.conv.weight", "convs.1.conv.weight", "style.1.weight"])
def test_a_halved_tensor_is_outvoted(name: str) -> None:
    data = rosinality_small()
    shape = tuple(data["g_ema"][name].shape)
    half = data["g_ema"][name].narrow(1 if len(shape) > 2 else 0, 0, 8)
    data["g_ema"][name] = half
    want = re.escape(f"tensor {name}: got shape {list(half.shape)}, expected {list(shape)}")
    with pytest.raises(CheckpointError, match=want):
        load_generator(torch_file(data))


@pytest.mark.parametrize(
    "name", ["style.100000.weight", "convs.9999999999.x", "convs.x.weight", "noises.noise_77"]
)
def test_a_strange_name_is_an_extra_tensor(name: str) -> None:
    data = rosinality_small()
    data["g_ema"][name] = torch.zeros(2)
    with pytest.raises(CheckpointError, match=f"extra tensor {name}"):
        load_generator(torch_file(data))


def test_strange_entries(e4e_file: dict[str, Any]) -> None:
    for name in ("encoder.styles.99.linear.weight", "encoder.styles.x.linear.weight"):
        state = e4e_file["state_dict"] | {name: torch.zeros(1)}
        with pytest.raises(CheckpointError, match=f"extra tensor {name}"):
            load_e4e(torch_file(e4e_file | {"state_dict": state}))
    with pytest.raises(CheckpointError, match="got a name of the type int, expected text"):
        load_generator(torch_file({"g_ema": {5: torch.zeros(1)}}))
    data = rosinality_small()
    data["latent_avg"] = data["latent_avg"] * torch.nan
    with pytest.raises(CheckpointError, match="tensor latent_avg: got NaN"):
        load_generator(torch_file(data))


def test_strange_mappers(mappers: list[Mapper]) -> None:
    for mapper in mappers:
        state = {f"mapper.{k}": v for k, v in mapper.state_dict().items()}
        for name in list(state)[::11]:
            damaged = state | {name: torch.zeros(3)}
            with pytest.raises(CheckpointError, match=f"tensor {name}: got"):
                load_mapper(torch_file({"state_dict": damaged}))
        for name in ("mapper.zzz", "mapper.mapper_x.a", "mapper.mapper_99999.mapping.1.weight"):
            with pytest.raises(CheckpointError, match=r"extra tensor|expected"):
                load_mapper(torch_file({"state_dict": state | {name: torch.zeros(1)}}))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (kind, change)
        for kind, changes in {
            "generator": [
                [1],
                None,
                "abc",
                {"num_mapping_layers": 10**7},
                {"channels": [16.5, 8, 8, 8]},
                {"z_dim": 10**20},
                {"conv_clamp": True},
                {"surprise": 1},
            ],
            "e4e": [{"num_ws": 10**9}, {"num_ws": 18.5}, {"trunk": {"depths": [1, 1]}}],
            "arcface": [{"trunk": None}, {"embedding_dim": 0}],
            "mapper": [{"w_dim": 0}, {"w_dim": -1}, {"type": "other"}],
        }.items()
        for change in changes
    ],
)
def test_a_nonsense_architecture_is_refused(kind: str, change: Any) -> None:
    module = {
        "generator": random_generator(),
        "e4e": E4eEncoder(E4eConfig(num_ws=8, w_dim=20, input_size=32, trunk=SMALL)),
        "arcface": ArcFace(ArcFaceConfig(embedding_dim=40, trunk=SMALL)),
        "mapper": LevelsMapper(w_dim=28),
    }[kind]
    load = dict(zip(("generator", "e4e", "arcface", "mapper"), LOADERS, strict=True))[kind]
    tensors, metadata = read_safetensors(own(module))
    config = json.loads(metadata["config"])
    metadata["config"] = json.dumps(config | change if isinstance(change, dict) else change)
    data = safetensors.torch.save(tensors, metadata=metadata)
    with pytest.raises(CheckpointError):
        load(io.BytesIO(data))


def test_another_resampling_filter_is_refused() -> None:
    data = rosinality_small()
    data["g_ema"]["convs.0.conv.blur.kernel"] = torch.ones(4, 4) / 4
    with pytest.raises(CheckpointError, match="convs.0.conv.blur.kernel: got another"):
        load_generator(torch_file(data))


def test_another_network_is_refused(generator: Generator, tmp_path: Path) -> None:
    mapper = own(LevelsMapper(w_dim=28))
    with pytest.raises(
        CheckpointError,
        match="got a network of the kind mapper, expected one of the kind generator",
    ):
        load_generator(mapper)
    mapper.seek(0)
    with pytest.raises(
        CheckpointError, match="got a network of the kind mapper, expected one of the kind e4e"
    ):
        load_e4e(mapper)
    with pytest.raises(CheckpointError, match="expected a StyleGAN2 generator under g_ema"):
        load_generator(torch_file({"weights": 1}))
    with pytest.raises(CheckpointError, match=r"got a dictionary of g_ema.*expected a state_dict"):
        load_mapper(torch_file(rosinality_small()))
    with pytest.raises(CheckpointError, match="G_ema: got a Discriminator"):
        load_generator(network_pickle(32, nvidia_small(), class_name="Discriminator"))
    with pytest.raises(CheckpointError, match="missing tensor"):
        load_arcface(torch_file(rosinality_small()["g_ema"]))
    tensors = nvidia_small() | {"mapping.embed.weight": torch.zeros(4, 4)}
    with pytest.raises(CheckpointError, match="class-conditional"):
        load_generator(network_pickle(32, tensors))


def test_the_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(torch_file({"weights": 1}).getvalue())
    with pytest.raises(CheckpointError, match=r"weights\.pt: got a dictionary of weights"):
        load_generator(path)
    with pytest.raises(FileNotFoundError):
        load_generator(tmp_path / "absent.pt")


@cache
def whole_files() -> dict[str, tuple[Callable[[Any], nn.Module], bytes]]:
    generator = random_generator()
    return {
        "safetensors": (load_generator, own(generator).getvalue()),
        "zip": (load_generator, torch_file(rosinality_small()).getvalue()),
        "legacy": (load_generator, torch_file(rosinality_small(), legacy=True).getvalue()),
        "pickle": (load_generator, network_pickle(32, nvidia_small()).getvalue()),
        "mapper": (load_mapper, own(LevelsMapper(w_dim=28)).getvalue()),
    }


@pytest.mark.parametrize("kind", list(whole_files()))
@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.7, 0.999])
def test_a_truncated_file_is_an_error(kind: str, share: float) -> None:
    load, data = whole_files()[kind]
    load(io.BytesIO(data))
    with pytest.raises(CheckpointError, match=r"truncated|missing|expected"):
        load(io.BytesIO(data[: int(share * len(data))]))


# --- files that try to run code -----------------------------------------------------------------


class Malice:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("container", ["zip", "legacy", "pickle", "protocol 0", "pickle 5"])
def test_code_is_never_run(
    load: Callable[[Any], nn.Module], container: str, tmp_path: Path
) -> None:
    target = tmp_path / "executed"
    data = {"g_ema": Malice(target), "state_dict": Malice(target), "G_ema": Malice(target)}
    if container in ("zip", "legacy"):
        file = torch_file(data, legacy=container == "legacy")
    else:
        protocol = {"pickle": 4, "protocol 0": 0, "pickle 5": 5}[container]
        file = io.BytesIO(pickle.dumps(data, protocol=protocol))
    with pytest.raises(UnsafeCheckpointError, match=r"posix\.system.*nothing was run"):
        load(file)
    assert not target.exists()


def test_code_inside_a_storage_is_never_run(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    inner = torch_file({"x": Malice(target)}, legacy=True).getvalue()

    class Storage:
        def __reduce__(self) -> tuple[Any, tuple[bytes]]:
            return torch.storage._load_from_bytes, (inner,)

    with pytest.raises(UnsafeCheckpointError, match=r"posix\.system"):
        load_generator(io.BytesIO(pickle.dumps({"G_ema": Storage()})))
    assert not target.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins.eval",
        "builtins.getattr",
        "torch.load",
        "torch.hub.load",
        "torch._utils._rebuild_device_tensor_from_numpy",
        "dnnlib.util.open_url",
        "numpy.core.multiarray._reconstruct",
        "styleclip_ops.unpickling.PersistentObject",
    ],
)
def test_every_other_global_is_named_and_refused(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    text = f"c{module}\n{attribute}\n.".encode()
    with pytest.raises(UnsafeCheckpointError, match=f"asks for {name}"):
        load_generator(io.BytesIO(text))


def test_what_a_pickle_may_call_it_may_not_alter() -> None:
    """BUILD on a function or class would change it for every later file."""
    for target in ("collections\nOrderedDict", "dnnlib.util\nEasyDict", "torch\nSize"):
        for state in ("}", "(N}S'__call__'\nI1\nst"):
            with pytest.raises(CheckpointError):
                load_generator(io.BytesIO(f"c{target}\n{state}b.".encode()))


def test_a_tensor_cannot_read_outside_its_storage() -> None:
    class Wide:
        def __reduce__(self) -> tuple[Any, ...]:
            storage = torch.zeros(4).storage()
            return torch._utils._rebuild_tensor_v2, (storage, 0, (1000,), (1,), False, {})

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        data = pickle.dumps({"G_ema": Wide()})
    with pytest.raises(CheckpointError, match="got a storage of 4 values"):
        load_generator(io.BytesIO(data))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_network_pickles_of_any_binary_protocol(protocol: int, generator: Generator) -> None:
    file = network_pickle(32, nvidia_small(), protocol=protocol)
    assert_same_weights(load_generator(file), generator)


@pytest.mark.parametrize(
    "state",
    [
        {"_parameters": 5},
        {"_modules": [1]},
        {"_parameters": {3: torch.zeros(1)}},
        {"_modules": {}, "_parameters": {}, "_init_kwargs": None},
        {},
    ],
)
def test_a_network_pickle_of_another_structure(state: dict[str, Any]) -> None:
    class Other:
        def __reduce__(self) -> tuple[Any, ...]:
            meta = {"type": "class", "class_name": "Generator", "state": state}
            return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)

    with pickling_modules():
        data = pickle.dumps({"G_ema": Other()})
    with pytest.raises(CheckpointError):
        load_generator(io.BytesIO(data))


def test_small_files_stay_small_in_memory() -> None:
    """A tensor that repeats one value, and a memo index of a billion."""

    class Repeated:
        def __reduce__(self) -> tuple[Any, ...]:
            storage = torch.zeros(1).untyped_storage()
            typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32)
            return torch._utils._rebuild_tensor_v2, (typed, 0, (2**31,), (0,), False, {})

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        data = pickle.dumps({"G_ema": Repeated()})
    with pytest.raises(CheckpointError, match="storage of 1 values"):
        load_generator(io.BytesIO(data))
    with pytest.raises(CheckpointError):
        load_generator(io.BytesIO(b"\x80\x04}r\xff\xff\xff\x3f."))


def test_tensors_of_one_storage_take_its_memory_once() -> None:
    storage = torch.zeros(2**20).untyped_storage()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32)

        class Named:
            def __reduce__(self) -> tuple[Any, ...]:
                return torch._utils._rebuild_tensor_v2, (typed, 0, (2**20,), (1,), False, {})

        data = pickle.dumps([Named() for _ in range(500)], 4)
    tensors = load_network_pickle(io.BytesIO(data))
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("bytearray", "asks for __builtin__.bytearray"),
        ("call of a type", "asks for torch._tensor._rebuild_from_type_v2"),
        ("encoding", "another encoding than latin1"),
        ("opcode", "sound pickle"),
        ("scalar", "buffer is smaller than requested"),
        ("expanding storage", "form that pickles have"),
        ("two pickles", "got a name twice"),
    ],
)
def test_a_few_bytes_do_not_ask_for_gigabytes(call: str, said: str) -> None:
    number = b"\x8a\x08" + (2**33).to_bytes(8, "little")
    if call == "bytearray":
        file = zip_of(b"\x80\x02c__builtin__\nbytearray\n" + number + b"\x85R.")
    elif call == "call of a type":
        rebuild = b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n"
        file = zip_of(rebuild + b"(c__builtin__\nbytearray\n2(" + number + b"t}tR.")
    elif call == "encoding":
        file = zip_of(b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x09\0\0\0hex_codec\x86R.")
    elif call == "opcode":
        file = io.BytesIO(b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".")
    elif call == "scalar":
        empty = b"c_codecs\nencode\nX\0\0\0\0X\x06\0\0\0latin1\x86R"
        code = f"V{2**30}".encode()
        dtype = b"cnumpy\ndtype\nX" + len(code).to_bytes(4, "little") + code + b"\x85R"
        file = zip_of(b"\x80\x02cnumpy.core.multiarray\nscalar\n" + dtype + empty + b"\x86R.")
    elif call == "two pickles":
        file = zip_of(pickle.dumps({}, 2))
        with warnings.catch_warnings(), zipfile.ZipFile(file, "a") as archive:
            warnings.simplefilter("ignore", UserWarning)
            archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        file.seek(0)
    else:
        inner, bomb = torch_file(torch.zeros(16).untyped_storage()), io.BytesIO()
        with (
            zipfile.ZipFile(inner) as source,
            zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target,
        ):
            for name in source.namelist():
                content = bytes(2**27) if name.endswith("/data/0") else source.read(name)
                target.writestr(name, content)
        content = bomb.getvalue()

        class Storage:
            def __reduce__(self) -> tuple[Any, tuple[bytes]]:
                return torch.storage._load_from_bytes, (content,)

        file = io.BytesIO(pickle.dumps({"G_ema": Storage()}))
    with pytest.raises(CheckpointError, match=said):
        load_generator(file)


def test_threads_that_read_at_once_refuse_nothing_sound() -> None:
    options = argparse.Namespace(steps=1)
    data = torch_file({"x": [torch.zeros(3)] * 100, "options": options}).getvalue()
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda _: read_data(io.BytesIO(data))["options"], range(200))]
    assert found == [options] * 200


def test_a_weight_beyond_float32_is_named() -> None:
    state = rosinality_small()
    state["g_ema"]["to_rgb1.bias"] = state["g_ema"]["to_rgb1.bias"].double() + 1e300
    with pytest.raises(CheckpointError, match=r"to_rgb1\.bias: got NaN or infinity"):
        load_generator(torch_file(state))


def test_a_zip_bomb_is_refused_before_it_is_read() -> None:
    good, bomb = torch_file(rosinality_small()), io.BytesIO()
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        for name in source.namelist():
            content = bytes(2**27) if name.endswith("/data/0") else source.read(name)
            file.writestr(name, content)
    for load in (*LOADERS, load_clip):
        bomb.seek(0)
        with pytest.raises(CheckpointError, match="bytes that stand for 13[0-9],.*no archive"):
            load(bomb)


def zip_of(pickled: bytes) -> io.BytesIO:
    """A torch file that holds a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    file.seek(0)
    return file


@pytest.mark.parametrize(
    "container",
    [
        *("pickle", "set", "zip", "legacy", "ordered in a zip", "set in a zip", "frozensets"),
        *("protocol 6 in a zip", "attributes in a zip", "storage in a zip", "legacy keys"),
    ],
)
def test_keys_that_would_take_years_to_hash_are_refused(container: str) -> None:
    tuples = b")" + b"2\x86" * 60
    pickled = b"\x80\x02}" + tuples + b"Ns."
    if container.startswith("set"):
        pickled = b"\x80\x02c__builtin__\nset\n(](" + tuples + b"etR."
    if container.startswith("ordered"):
        pickled = b"\x80\x02ccollections\nOrderedDict\n]" + tuples + b"N\x86a\x85R."
    if container.startswith("protocol"):
        pickled = b"\x80\x06" + pickled[2:]
    if container.startswith("attributes"):
        named = b"\x80\x02cargparse\nNamespace\n)\x81"
        pickled = named + b"]" + tuples + b"N\x86ab."
    if container.startswith("storage"):
        storage = b"\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\n"
        pickled = storage + tuples + b"X\x03\0\0\0cpuK\x01tQ."
    if container == "frozensets":
        # Each of the one before it, and of a tuple of that.
        pickled = b"\x80\x04}(\x91" + b"q\x000(h\x00h\x00\x85\x91" * 60 + b"Ns."
    file = io.BytesIO(pickled)
    if container.endswith("zip"):
        file = zip_of(pickled)
    if container == "legacy":
        whole = torch_file({}, legacy=True).getvalue()
        file = io.BytesIO(whole.replace(pickle.dumps({}, 2), pickled))
    if container == "legacy keys":
        whole = torch_file({}, legacy=True).getvalue()
        file = io.BytesIO(whole.replace(pickle.dumps([], 2), b"\x80\x02]" + tuples + b"a."))
    said = "a key of tuples in tuples|unsupported pickle protocol: 6|got a tuple as a name"
    with pytest.raises(CheckpointError, match=said):
        load_generator(file)


def test_modules_in_modules_have_an_end() -> None:
    with pickling_modules() as (persistent, _):
        module = persistent()
        module._orig_class_name = "Generator"
        for _ in range(60):
            outer = persistent()
            outer._orig_class_name = "Generator"
            outer._modules = {"a": module, "b": module}
            module = outer
        data = pickle.dumps({"G_ema": module})
    with pytest.raises(CheckpointError, match="more than 100,000 in each other"):
        load_generator(io.BytesIO(data))


def test_tensors_that_repeat_one_value_are_refused() -> None:
    state = {
        name: torch.zeros(()).expand(tuple(1024 if size > 4 else size for size in tensor.shape))
        for name, tensor in rosinality_small()["g_ema"].items()
    }
    with pytest.raises(CheckpointError, match="g_ema: got tensors of .* that share .*, expected"):
        load_generator(torch_file({"g_ema": state}))


def test_a_length_that_the_file_does_not_have_is_its_fault(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    for opcode in (b"\x8d", b"\x8e", b"\x95"):
        path.write_bytes(b"\x80\x04" + opcode + (2**50).to_bytes(8, "little") + b".")
        with pytest.raises(CheckpointError):
            load_generator(path)


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bits_give_our_errors_or_the_same_network(seed: int) -> None:
    data = bytearray(torch_file(rosinality_small()).getvalue())
    random = np.random.default_rng(seed)
    # The directory of the archive and the pickle are at its ends; most of it is weights.
    place = int(random.integers(0, 2000)) * (1 if seed % 2 else -1)
    data[place] ^= 1 << int(random.integers(0, 8))
    with suppress(CheckpointError):
        assert isinstance(load_generator(io.BytesIO(bytes(data))), Generator)


def test_identity_network_in_the_published_layout_is_strict() -> None:
    state = filled("ir_se50")
    del state["body.3.res_layer.5.fc1.weight"]
    with pytest.raises(CheckpointError, match=r"missing tensor body\.3\.res_layer\.5\.fc1\.weight"):
        load_arcface(torch_file(state))


def test_equal_networks_give_equal_files(generator):
    files = []
    for _ in range(8):
        file = io.BytesIO()
        save_safetensors(generator, file)
        files.append(file.getvalue())
    assert len(set(files)) == 1
