"""A pickle reader that constructs tensors, containers and plain values, and nothing else.

Two published formats are pickles of whole objects: stylegan2-ada-pytorch's network pickles, which
carry their own source code, and TorchScript archives (OpenAI's CLIP). Both are read here as trees
of data. Every other global that a pickle names is refused before anything is called.
"""

import io
import math
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO, ClassVar, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor

from styleclip_ops.errors import CheckpointError, UnsafeCheckpointError

_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


# The first pickle of a torch file from before the zip format: its magic number. Then there are
# version, system, content, and the keys of the storages.
LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
LEGACY_PICKLES = 5

# The largest networks of the field have some thousands.
_MOST_MODULES = 100_000

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _STORAGE_DTYPES.values()}


@dataclass(frozen=True)
class PersistentObject:
    """An object of a network pickle: its class by name, and its attributes.

    Attributes:
        class_name: Name of the class, for example `Generator`. Its source text is dropped.
        state: Attributes; those of a module hold `_parameters`, `_buffers` and `_modules`.
    """

    __slots__ = ("class_name", "state")
    class_name: str
    state: dict[str, Any]

    def __setstate__(self, state: object) -> NoReturn:
        raise UnsafeCheckpointError("pickle sets the state of a network again; refused")

    def submodule(self, *path: str) -> "PersistentObject | None":
        """Follow a path of submodule names; None where one does not exist."""
        module: PersistentObject | None = self
        for name in path:
            children = module.state.get("_modules") if module else None
            child = children.get(name) if isinstance(children, dict) else None
            module = child if isinstance(child, PersistentObject) else None
        return module

    def tensors(self) -> dict[str, Tensor]:
        """Collect the parameters and buffers of a module and its submodules by dotted name."""
        found: dict[str, Tensor] = {}
        for prefix, module in walk_modules(self, lambda module: module.state.get("_modules", {})):
            for part in ("_parameters", "_buffers"):
                for name, value in dict(module.state.get(part, {})).items():
                    if isinstance(value, Tensor):
                        found[prefix + name] = value
        return found


class ScriptObject:
    """An object of a TorchScript archive: its attributes."""

    state: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = dict(state)


M = TypeVar("M", PersistentObject, ScriptObject)


def walk_modules(root: M, children: Callable[[M], Mapping[Any, Any]]) -> Iterator[tuple[str, M]]:
    """Yield a module and its submodules, each with what stands before the names of its own.

    Raises:
        CheckpointError: There are endlessly many, as few bytes can make of modules in modules.
    """
    waiting, count = [("", root)], 0
    while waiting:
        prefix, module = waiting.pop()
        count += 1
        if count > _MOST_MODULES:
            raise CheckpointError(
                f"modules: got more than {_MOST_MODULES:,} in each other, expected a network"
            )
        yield prefix, module
        for name, child in reversed(dict(children(module)).items()):
            if isinstance(child, type(root)):
                waiting.append((f"{prefix}{name}.", child))


class _PlainDict(dict[Any, Any]):
    """Stands for dict subclasses; takes items and no attributes."""

    __slots__ = ()

    def __setstate__(self, state: object) -> NoReturn:
        raise UnsafeCheckpointError("pickle sets attributes on a dictionary; refused")


class _DataType:
    """Stands for numpy.dtype, whose pickled state only repeats its code."""

    def __init__(self, code: str, *_: object) -> None:
        self.dtype = np.dtype(code)

    def __setstate__(self, state: object) -> None:
        pass


class _Constructor:
    """A callable that a pickle may call and may not alter."""

    __slots__ = ("_construct",)
    _construct: Callable[..., Any]

    def __init__(self, construct: Callable[..., Any]) -> None:
        object.__setattr__(self, "_construct", construct)

    def __call__(self, *args: Any) -> Any:
        return self._construct(*args)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise UnsafeCheckpointError(f"pickle sets attribute {name!r} of a function; refused")

    def __setstate__(self, state: object) -> NoReturn:
        raise UnsafeCheckpointError("pickle sets the state of a function; refused")


def load_network_pickle(file: BinaryIO) -> Any:
    """Read a stylegan2-ada-pytorch network pickle without running its source.

    Args:
        file: At the start of the pickle.

    Returns:
        The pickled containers; networks as `PersistentObject`, tensors on the processor.

    Raises:
        UnsafeCheckpointError: The pickle names anything but tensors, containers and plain values.
        CheckpointError: The pickle is truncated or malformed.
    """
    # From memory, where a length that the file does not have is read as far as it goes.
    content = file.read()
    # A pickle of protocol 2 and later begins so, and any whole one ends so.
    if content and not content.startswith(b"\x80") and not content.endswith(b"."):
        raise CheckpointError(
            f"got no checkpoint but a file that begins with {content[:12]!r}, expected a torch "
            "file, a network pickle or safetensors"
        )
    return _load(_DataUnpickler(io.BytesIO(content)))


def load_torchscript(file: BinaryIO) -> ScriptObject:
    """Read the module of a TorchScript archive without running its code.

    Args:
        file: The zip archive.

    Returns:
        The root module; submodules are `ScriptObject` in its state, parameters are tensors.

    Raises:
        UnsafeCheckpointError: The archive names anything but tensors, containers and modules.
        CheckpointError: The archive is truncated or malformed.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            (pickled,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            root = pickled.removesuffix("data.pkl")

            def read_storage(key: str) -> bytes:
                return archive.read(f"{root}data/{key}")

            tree = _load(_ScriptUnpickler(io.BytesIO(archive.read(pickled)), read_storage))
    except (CheckpointError, OSError, MemoryError):
        raise
    except Exception as error:
        raise CheckpointError(f"TorchScript archive: truncated or malformed ({error})") from error
    if not isinstance(tree, ScriptObject):
        raise CheckpointError(
            f"TorchScript archive: got a {type(tree).__name__}, expected a module"
        )
    return tree


def _load(unpickler: "_DataUnpickler") -> Any:
    try:
        return unpickler.load()
    except (CheckpointError, OSError, MemoryError):
        raise
    except Exception as error:
        # A malformed pickle can fail in any way: every opcode is the stranger's choice.
        raise CheckpointError(
            "got a file that is neither safetensors nor a torch file nor a sound pickle: no "
            f"checkpoint, or truncated or malformed ({type(error).__name__}: {error})"
        ) from error


_NESTING = (tuple, frozenset)


def _check_keys(keys: Iterable[Any]) -> None:
    # Tuples of twice the same tuple, and so on: to hash such a key takes years.
    for key in keys:
        if isinstance(key, _NESTING) and any(isinstance(part, _NESTING) for part in key):
            raise CheckpointError("pickle: got a key of tuples in tuples, expected plain values")


def _checked(opcode: bytes, keys: slice) -> tuple[int, Callable[[Any], None]]:
    """An opcode, and its work after a check of what will be hashed of the top of the stack."""
    work = pickle._Unpickler.dispatch[opcode[0]]

    def check_and_do(unpickler: Any) -> None:
        _check_keys(unpickler.stack[keys])
        work(unpickler)

    return opcode[0], check_and_do


# Without the opcodes that make room for bytes before there are any; checkpoints have none of them.
_PLAIN_OPCODES = {
    opcode: work
    for opcode, work in pickle._Unpickler.dispatch.items()
    if opcode not in (pickle.BYTEARRAY8[0], pickle.NEXT_BUFFER[0])
}


# The Python reader: the C one sizes its memo by an index that a stranger chose.
class _DataUnpickler(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(
        [
            *_PLAIN_OPCODES.items(),
            _checked(pickle.SETITEM, slice(-2, -1)),
            *(_checked(opcode, slice(0, None, 2)) for opcode in (pickle.SETITEMS, pickle.DICT)),
            *(_checked(opcode, slice(None)) for opcode in (pickle.ADDITEMS, pickle.FROZENSET)),
        ]
    )

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")
        # Tensors share a storage, however often they name it.
        self._storage = cache(_storage_from_bytes)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _Constructor(self._storage)
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise UnsafeCheckpointError(
                f"pickle asks for {module}.{name}, expected only tensors, containers and plain "
                "values; refused, nothing was run"
            ) from None


class _ScriptUnpickler(_DataUnpickler):
    def __init__(self, file: BinaryIO, read_storage: Callable[[str], bytes]) -> None:
        super().__init__(file)
        self._read_storage = cache(lambda key: bytearray(read_storage(key)))

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return ScriptObject
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, size = pid
        _require_text(key)
        if not size:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(self._read_storage(key), dtype=dtype, count=size)


def _require_text(value: object) -> str:
    """Return a text; to write down or to hash anything else may take years."""
    if not isinstance(value, str):
        raise CheckpointError(f"pickle: got a {type(value).__name__} as a name, expected text")
    return value


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> PersistentObject:
    kind = _require_text(meta.get("type"))
    if kind != "class" or not isinstance(meta.get("state"), dict):
        raise CheckpointError(f"network pickle: got a persistent object of type {kind!r}")
    return PersistentObject(_require_text(meta["class_name"]), meta["state"])


def _storage_from_bytes(data: bytes) -> Tensor:
    """Read a storage as a flat tensor; the bytes are a torch file of their own."""
    # Torch pickles storages so, also today; an archive could expand.
    if not data.startswith(LEGACY_TORCH):
        raise CheckpointError("tensor storage: got no torch file of the form that pickles have")
    check_keys(io.BytesIO(data), LEGACY_PICKLES)
    with warnings.catch_warnings():
        # torch warns about its own TypedStorage, which this format is made of.
        warnings.simplefilter("ignore", UserWarning)
        try:
            storage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise unsafe_or_malformed("tensor storage", error) from error
        return torch.tensor([], dtype=storage.dtype).set_(storage)


def _rebuild_tensor(storage: Tensor, offset: int, size: Sequence[int], *rest: Any) -> Tensor:
    stride = rest[0]
    if math.prod(size) > storage.numel():
        raise CheckpointError(
            f"tensor of shape {list(size)}: got a storage of {storage.numel()} values"
        )
    # No copy: a storage may be named as often as a few bytes allow.
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _rebuild_parameter(data: Tensor, *_: object) -> Tensor:
    return data


def numpy_scalar(dtype: np.dtype[Any] | _DataType, data: bytes) -> Any:
    """A number of numpy's from its bytes; numpy itself makes zeros of any size where none are."""
    return np.frombuffer(data, getattr(dtype, "dtype", dtype), 1)[0]


def _encode(text: str, encoding: str) -> bytes:
    """Bytes as protocol 2 writes them."""
    if encoding != "latin1":
        raise CheckpointError(f"pickle: got bytes in encoding {encoding!r}, expected latin1")
    return text.encode("latin1")


def _first(value: Any, *_: object) -> Any:
    return value


def _mapping(items: Iterable[Any] = ()) -> dict[Any, Any]:
    pairs = [(key, value) for key, value in (items.items() if isinstance(items, dict) else items)]
    _check_keys(key for key, _ in pairs)
    return dict(pairs)


def _set(items: Iterable[Any] = ()) -> set[Any]:
    values = [*items]
    _check_keys(values)
    return set(values)


def _frozenset(items: Iterable[Any] = ()) -> frozenset[Any]:
    return frozenset(_set(items))


_ALLOWED: dict[tuple[str, str], Any] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Constructor(
        _reconstruct_persistent_obj
    ),
    ("dnnlib.util", "EasyDict"): _PlainDict,
    ("dnnlib", "EasyDict"): _PlainDict,
    ("collections", "OrderedDict"): _Constructor(_mapping),
    ("_codecs", "encode"): _Constructor(_encode),
    ("__builtin__", "set"): _Constructor(_set),
    ("__builtin__", "frozenset"): _Constructor(_frozenset),
    ("builtins", "set"): _Constructor(_set),
    ("builtins", "frozenset"): _Constructor(_frozenset),
    ("torch._utils", "_rebuild_tensor"): _Constructor(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Constructor(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _Constructor(_rebuild_parameter),
    ("torch.jit._pickle", "build_intlist"): _Constructor(list),
    ("torch.jit._pickle", "build_doublelist"): _Constructor(list),
    ("torch.jit._pickle", "build_boollist"): _Constructor(list),
    ("torch.jit._pickle", "build_tensorlist"): _Constructor(list),
    ("torch.jit._pickle", "restore_type_tag"): _Constructor(_first),
    ("torch", "Size"): _Constructor(tuple),
    ("torch", "device"): _Constructor(lambda kind, *_: _require_text(kind)),
    ("numpy", "dtype"): _DataType,
    ("numpy.core.multiarray", "scalar"): _Constructor(lambda *parts: numpy_scalar(*parts).item()),
    ("numpy._core.multiarray", "scalar"): _Constructor(lambda *parts: numpy_scalar(*parts).item()),
}


class _Inert:
    """Stands for whatever a pickle makes, and does nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __call__(self, *_: object) -> "_Inert":
        return _Inert()

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        pass

    add = extend = update = append


def _check_pairs(items: object = ()) -> _Inert:
    """Look at the keys of a dictionary that the other reader makes, or adds to, in one call."""
    if isinstance(items, list | tuple | set | frozenset):
        _check_keys(item[0] for item in items if isinstance(item, list | tuple) and item)
    return _Inert()


def _check_items(items: object = ()) -> _Inert:
    """Look at the items of a set, or of what counts items, likewise."""
    if isinstance(items, list | tuple | set | frozenset):
        _check_keys(items)
    return _Inert()


def _check_encoding(_: object, encoding: object = "") -> _Inert:
    if encoding not in ("latin1", "latin-1"):
        raise CheckpointError("pickle: got bytes in another encoding than latin1")
    return _Inert()


# What torch's reader may call for a file of weights, and what is looked at of it. It would call
# more, which makes much of few bytes.
_LOOKED_AT: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Constructor(_check_pairs),
    ("collections", "Counter"): _Constructor(_check_items),
    ("_codecs", "encode"): _Constructor(_check_encoding),
    **{
        (module, name): _Constructor(_check_items)
        for module in ("builtins", "__builtin__")
        for name in ("set", "frozenset")
    },
}
_MADE = {
    "argparse": ("Namespace",),
    "numpy": ("dtype",),
    "numpy.core.multiarray": ("scalar",),
    "numpy._core.multiarray": ("scalar",),
    "torch": ("Size", "device", "Tensor"),
    "torch.nn.parameter": ("Parameter",),
    "torch.serialization": ("_get_layout",),
    "torch.storage": ("UntypedStorage", "TypedStorage"),
    "torch._utils": (
        "_rebuild_tensor",
        "_rebuild_tensor_v2",
        "_rebuild_tensor_v3",
        "_rebuild_parameter",
        "_rebuild_parameter_with_state",
        "_rebuild_sparse_tensor",
        "_rebuild_meta_tensor_no_storage",
    ),
}


class _KeyReader(_DataUnpickler):
    """Goes through a pickle that torch will read, and makes nothing of it."""

    def find_class(self, module: str, name: str) -> Any:
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_type or (module in ("torch", "torch.cuda") and name.endswith("Storage")):
            return _Inert
        if name in _MADE.get(module, ()) or module == "numpy.dtypes":
            return _Inert
        return _LOOKED_AT.get((module, name)) or super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        kind, _, key, *_ = pid
        _require_text(kind)
        _require_text(key)
        return _Inert()

    def _build(self: Any) -> None:
        _check_pairs(self.stack.pop())

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **_DataUnpickler.dispatch,
        pickle.BUILD[0]: _build,
    }


def check_keys(file: BinaryIO, pickles: int) -> None:
    """Go through pickles in a row, which another reader will read, for what costs it too much.

    That is keys that take years, and bytes that nobody wrote. What this one cannot read is refused,
    since nobody knows what the other makes of it.

    Raises:
        UnsafeCheckpointError: A pickle names what no file of weights needs.
        CheckpointError: It is too costly, truncated or malformed.
    """
    found: Any = None
    for _ in range(pickles):
        found = _load(_KeyReader(file))
    # The last one of several is the list of the storages' keys.
    for key in found if pickles > 1 and isinstance(found, list) else ():
        _require_text(key)


def unsafe_or_malformed(what: str, error: pickle.UnpicklingError) -> CheckpointError:
    """Turn torch's refusal into an error that names what the file tried to use."""
    for line in str(error).splitlines():
        for marker in ("GLOBAL ", "global: ", "class "):
            if "nsupported" in line and marker in line:
                wanted = line.split(marker, 1)[1].split()[0].rstrip(".,")
                return UnsafeCheckpointError(
                    f"{what}: asks for {wanted}, expected only tensors, containers and plain "
                    "values; refused, nothing was run"
                )
    # Before it torch gives the advice to let the file run code.
    told = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    reason = told.splitlines()[0] if told else "empty"
    return CheckpointError(f"{what}: truncated or malformed ({reason})")
