"""Hostile checkpoints, through every loader: networks or our own errors, and no code is run."""

import io
import json
import os
import pickle
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from benchmarks.endurance.hostile.items import Item, damaged, drawing
from benchmarks.endurance.small_bundle import TRUNK, write_small_bundle
from styleclip_ops.checkpoint_files import read_safetensors
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
from styleclip_ops.errors import CheckpointError
from styleclip_ops.generator import Generator, GeneratorConfig
from styleclip_ops.identity import ArcFace, ArcFaceConfig
from styleclip_ops.mapper import LevelsMapper

_LOADERS: dict[str, Callable[[Any], nn.Module | object]] = {
    "generator": load_generator,
    "encoder": load_e4e,
    "identity": load_arcface,
    "mapper": load_mapper,
    "clip": load_clip,
}
_NUMBERS: tuple[object, ...] = (
    0,
    -1,
    1,
    2,
    10**6,
    2**31,
    2**63,
    10**30,
    1.5,
    None,
    "x",
    [],
    {},
    True,
)


class Malice:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self._path}",)


class Checkpoints:
    """Damaged, lying, swollen and malicious weights."""

    refusals = (CheckpointError,)

    def __init__(self, folder: Path, seed: int, canary: Path) -> None:
        self._folder, self._seed = folder, seed
        torch.manual_seed(seed)
        generator = Generator(GeneratorConfig((24, 20, 16, 12), z_dim=20, w_dim=28)).eval()
        self._samples = dict(_samples(generator))
        self._clip = folder / "clip"
        write_small_bundle(folder)
        self._clip_config = (self._clip / "config.json").read_bytes()
        self._by_hand = [*_by_hand(generator, canary)]

    def good(self) -> Item:
        """Return a generator."""
        return Item("good", "generator.pt", self._samples["zip"][1], "generator")

    def item(self, index: int) -> Item:
        """Return one checkpoint."""
        if index < len(self._by_hand):
            kind, door, content = self._by_hand[index]
            return Item(kind, "weights.pt", content() if callable(content) else content, door)
        draw = drawing(self._seed, "checkpoints", index)
        sample = draw.choice([*self._samples, "CLIP configuration"])
        if sample == "CLIP configuration":
            way, content = _other_json(self._clip_config, draw.choice(_NUMBERS), draw.random())
            return Item(f"{sample}: {way}", "config.json", content, "clip folder")
        door, good = self._samples[sample]
        if sample.startswith("safetensors") and draw.random() < 0.3:
            way, content = _other_header(good, draw.choice(_NUMBERS), draw.random())
        else:
            way, content = damaged(good, draw)
        return Item(f"{sample}: {way}", "weights.pt", content, door)

    def judge(self, item: Item) -> str:
        """Load the checkpoint."""
        if item.door == "clip folder":
            (self._clip / "config.json").write_bytes(item.content)
            load_clip(self._clip)
            return "accepted"
        path = self._folder / item.name
        path.write_bytes(item.content)
        network = _LOADERS[item.door](path)
        if isinstance(network, nn.Module):
            finite = all(bool(p.isfinite().all()) for p in network.state_dict().values())
            assert finite, "got a network with NaN or infinity"
        return "accepted"


def _samples(generator: Generator) -> Iterator[tuple[str, tuple[str, bytes]]]:
    encoder = E4eEncoder(E4eConfig(8, 28, 32, TRUNK)).eval()
    mapper = LevelsMapper(w_dim=28).eval()
    yield "zip", ("generator", _saved(lambda file: save_rosinality_generator(generator, file)))
    state = torch.load(io.BytesIO(_saved(lambda f: save_rosinality_generator(generator, f))))
    yield "old torch file", ("generator", _torch_file(state, legacy=True))
    yield "network pickle", ("generator", network_pickle(dict(generator.state_dict())))
    yield "safetensors", ("generator", _saved(lambda file: save_safetensors(generator, file)))
    yield "safetensors encoder", ("encoder", _saved(lambda file: save_safetensors(encoder, file)))
    arcface = ArcFace(ArcFaceConfig(16, TRUNK)).eval()
    yield "safetensors identity", ("identity", _saved(lambda f: save_safetensors(arcface, f)))
    yield "safetensors mapper", ("mapper", _saved(lambda file: save_safetensors(mapper, file)))
    yield "zip mapper", ("mapper", _saved(lambda file: save_published_mapper(mapper, file, {})))


def _saved(save: Callable[[Any], None]) -> bytes:
    sink = io.BytesIO()
    save(sink)
    return sink.getvalue()


def _torch_file(data: Any, legacy: bool = False) -> bytes:
    sink = io.BytesIO()
    torch.save(data, sink, _use_new_zipfile_serialization=not legacy)
    return sink.getvalue()


def _other_json(content: bytes, value: object, place: float) -> tuple[str, bytes]:
    """Replace one value of a JSON document."""
    document = json.loads(content)
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            places.append((node, key))
            if isinstance(child, dict | list):
                visit(child)

    visit(document)
    node, key = places[int(place * len(places))]
    node[key] = value
    return f"{key} = {value!r}", json.dumps(document).encode()


def _other_header(content: bytes, value: object, place: float) -> tuple[str, bytes]:
    """Replace one value of the header of a safetensors file, or of the architecture in it."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    if place < 0.5:
        config = header["__metadata__"]["config"].encode()
        way, changed = _other_json(config, value, 2 * place)
        header["__metadata__"]["config"] = changed.decode()
        text = json.dumps(header).encode()
    else:
        way, text = _other_json(json.dumps(header).encode(), value, 2 * place - 1)
    return way, struct.pack("<Q", len(text)) + text + content[8 + length :]


def _by_hand(
    generator: Generator, canary: Path
) -> Iterator[tuple[str, str, bytes | Callable[[], bytes]]]:
    """Kind, door, and the content or, where that is large, what makes it."""
    yield "nothing", "generator", b""
    yield "HTML", "generator", b"<!doctype html><title>Quota exceeded</title>"
    yield from _malicious(canary)
    yield from _lying_safetensors(generator)
    for door in _LOADERS:
        yield "zip bomb in a storage", door, partial(_bomb, "archive/data/0")
        yield "zip bomb in a pickle", door, partial(_bomb, "archive/data.pkl")
        yield "zip bomb in TorchScript", door, partial(_bomb, "archive/data.pkl", script=True)
        yield "zip of nothing", door, b"PK\x05\x06" + bytes(18)
        yield "a long text that is not there", door, b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f."
        yield "bytes that are not there", door, b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"."
        yield "a frame that is not there", door, b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"."
        yield "a place in the memo of a billion", door, b"\x80\x04}r\xff\xff\xff\x3f."
        yield "lists in lists", door, b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."
        yield "a number of a million digits", door, b"\x80\x02I" + b"9" * 1_000_000 + b"\n."
        yield "a set of tuples of tuples", door, _tuples(60, b"c__builtin__\nset\n")
        yield "a key of tuples of tuples", door, _tuples(60, None)
        yield "a key in a zip of tuples", door, _zipped_pickle(_tuples(60, None))
    yield "modules in modules", "generator", _shared_modules(60)
    yield "modules in modules of TorchScript", "clip", _shared_script(60)
    wide = {name: torch.zeros(()).expand(_wide(shape)) for name, shape in _shapes(generator)}
    yield "wide tensors of one value", "generator", _torch_file({"g_ema": wide})
    sparse = {"g_ema": {"input.input": torch.zeros(9, 9).to_sparse()}}
    yield "sparse tensors", "generator", _torch_file(sparse)
    one = torch.zeros(1 << 20)
    many = {f"convs.{i}.conv.weight": one for i in range(5_000)}
    yield "one storage for all tensors", "generator", partial(_torch_file, {"g_ema": many})


def _malicious(canary: Path) -> Iterator[tuple[str, str, bytes]]:
    malice = Malice(canary / "pickle")
    data = dict.fromkeys(("g_ema", "state_dict", "G_ema", "weights"), malice)
    for door in _LOADERS:
        for protocol in range(6):
            yield f"payload in protocol {protocol}", door, pickle.dumps(data, protocol)
        yield "payload in a zip", door, _torch_file(data)
        yield "payload in an old torch file", door, _torch_file(data, legacy=True)
        yield "payload in TorchScript", door, _zipped_pickle(pickle.dumps(malice, 2), script=True)
        calls = f"cbuiltins\nexec\n(Vopen({str(canary / 'exec')!r}, 'w')\ntR."
        yield "payload in exec", door, calls.encode()
        yield "payload by instance", door, f"(Vtouch {canary}/inst\niposix\nsystem\n.".encode()
        yield "payload by extension", door, b"\x80\x02\x82\x01)R."


def _lying_safetensors(generator: Generator) -> Iterator[tuple[str, str, bytes]]:
    good = _saved(lambda file: save_safetensors(generator, file))
    (length,) = struct.unpack("<Q", good[:8])
    for lie in (0, 1, length - 1, length + 1, len(good), 2**32, 2**63, 2**64 - 1):
        yield f"header of {lie} bytes", "generator", struct.pack("<Q", lie) + good[8:]
    tensors, metadata = read_safetensors(io.BytesIO(good))
    name = next(iter(tensors))
    for kind, entry in {
        "a tensor beyond the end": {"shape": [2**40], "data_offsets": [0, 2**42]},
        "a tensor that ends before it begins": {"shape": [1], "data_offsets": [8, 4]},
        "a tensor of another size": {"shape": [2**20, 2**20], "data_offsets": [0, 4]},
        "a tensor of an overflowing size": {"shape": [2**33, 2**33], "data_offsets": [0, 0]},
    }.items():
        header = {"__metadata__": metadata, name: {"dtype": "F32"} | entry}
        text = json.dumps(header).encode()
        yield kind, "generator", struct.pack("<Q", len(text)) + text + bytes(64)
    config = json.loads(metadata["config"])
    for change in ({"channels": [65_536] * 9}, {"num_mapping_layers": 10**9}):
        changed = metadata | {"config": json.dumps(config | change)}
        yield f"architecture {change}", "generator", safetensors.torch.save(tensors, changed)


def _zipped_pickle(pickled: bytes, script: bool = False) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        if script:
            archive.writestr("archive/constants.pkl", pickle.dumps((), 2))
    return sink.getvalue()


@cache
def _bomb(name: str, script: bool = False, size: int = 2**31) -> bytes:
    """A zip of some megabytes, of which one member has two gigabytes."""
    tensor = _torch_file({"g_ema": {"x": torch.zeros(16)}})
    sink = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(tensor)) as good,
        zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bad,
    ):
        for member in good.namelist():
            if member != name:
                bad.writestr(member, good.read(member))
        if script:
            bad.writestr("archive/constants.pkl", pickle.dumps((), 2))
        block = bytes(1 << 24)
        with bad.open(name, "w", force_zip64=True) as file:
            for _ in range(size // len(block)):
                file.write(block)
    return sink.getvalue()


def _tuples(depth: int, call: bytes | None) -> bytes:
    """Tuples of twice the same tuple, whose hash takes 2**depth steps, as a key or in a set."""
    nest = b")" + b"2\x86" * depth
    if call is None:
        return b"\x80\x02}" + nest + b"Ns."
    return b"\x80\x02" + call + b"(](" + nest + b"etR."


def _shapes(generator: Generator) -> list[tuple[str, tuple[int, ...]]]:
    state = torch.load(io.BytesIO(_saved(lambda file: save_rosinality_generator(generator, file))))
    return [(name, tuple(tensor.shape)) for name, tensor in state["g_ema"].items()]


def _wide(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(65_536 if size in (12, 16, 20, 24, 28) else size for size in shape)


def _shared_modules(depth: int) -> bytes:
    """Modules that hold the next one twice: 2**depth ways lead to the last."""
    with pickling_modules() as persistent:
        module = persistent()
        for _ in range(depth):
            outer = persistent()
            outer._modules = {"a": module, "b": module}
            module = outer
        return pickle.dumps({"G_ema": module})


def _shared_script(depth: int) -> bytes:
    """The same in a TorchScript archive."""
    pickled = b"c__torch__\nM\n)\x81}b"
    for _ in range(depth):
        pickled = pickled + b"q\x000c__torch__\nM\n)\x81}(X\x01\0\0\0ah\0X\x01\0\0\0bh\0ub"
    return _zipped_pickle(b"\x80\x02" + pickled + b".", script=True)


def network_pickle(tensors: dict[str, Tensor]) -> bytes:
    """Return a pickle with the structure of a stylegan2-ada-pytorch one."""
    with pickling_modules() as persistent:
        root = persistent()
        for key, tensor in tensors.items():
            *path, leaf = key.split(".")
            module = root
            for name in path:
                if name not in module._modules:
                    module.add_module(name, persistent())
                module = module._modules[name]
            module.register_buffer(leaf, tensor)
        return pickle.dumps({"G": None, "D": None, "G_ema": root}, protocol=4)


@contextmanager
def pickling_modules() -> Iterator[Callable[[], Any]]:
    """Give a stand-in for `torch_utils.persistence`, for the time of the pickling."""
    persistence = ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(_: Any) -> None:
        raise AssertionError("reading must not call this")

    class Persistent(nn.Module):
        def __reduce__(self) -> Any:
            state = {name: self.__dict__[name] for name in ("_parameters", "_buffers", "_modules")}
            meta = {"type": "class", "module_src": "raise SystemExit", "class_name": "Generator"}
            return persistence._reconstruct_persistent_obj, (meta | {"state": state},)

    _reconstruct_persistent_obj.__module__ = persistence.__name__
    _reconstruct_persistent_obj.__qualname__ = _reconstruct_persistent_obj.__name__
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    fakes = {"torch_utils": ModuleType("torch_utils"), persistence.__name__: persistence}
    sys.modules.update(fakes)
    try:
        with warnings.catch_warnings():
            # torch warns about its own TypedStorage.
            warnings.simplefilter("ignore", UserWarning)
            yield Persistent
    finally:
        for name in fakes:
            del sys.modules[name]
