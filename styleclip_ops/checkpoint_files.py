"""Checkpoint files as data: what kind a file is, its contents, and a module filled with them."""

import argparse
import errno
import io
import json
import pickle
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from styleclip_ops.errors import CheckpointError, ConfigError
from styleclip_ops.published_layouts import check_tensors, shapes_of
from styleclip_ops.unpickling import (
    LEGACY_PICKLES,
    LEGACY_TORCH,
    check_keys,
    load_network_pickle,
    numpy_scalar,
    unsafe_or_malformed,
)

Source = str | PathLike[str] | BinaryIO
FileKind = Literal["safetensors", "torch", "torchscript", "pickle"]
M = TypeVar("M", bound=nn.Module)

_FORMAT = "styleclip"

# Archives of weights are not compressed, but for TorchScript's code.
_LARGEST_EXPANSION, _FREE_EXPANSION = 2, 64 * 2**20
# Tensors may share their values; ones that repeat them more often stand for more than the file has.
_MOST_SHARED = 4


_PLAIN_TYPES: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
    (numpy_scalar, "numpy.core.multiarray.scalar"),
    (numpy_scalar, "numpy._core.multiarray.scalar"),
]

_READING = threading.Lock()

_UNUSUAL = {
    "safetensors": "a safetensors file of another kind of network",
    "torchscript": "a TorchScript archive",
}


@contextmanager
def reading(source: Source) -> Iterator[BinaryIO]:
    """Open a path for reading, or take a binary file; every error names the source.

    Raises:
        CheckpointError: What was done with the contents failed in whatever way.
    """
    name = getattr(source, "name", type(source).__name__)
    try:
        if isinstance(source, str | PathLike):
            name = str(source)
            with Path(source).open("rb") as file:
                yield file
        else:
            yield source
    except ConfigError as error:
        raise CheckpointError(f"{name}: {error}") from error
    except CheckpointError as error:
        raise type(error)(f"{name}: {error}") from error
    except (OSError, MemoryError) as error:
        # A zip that lies about a place makes its reader seek in front of the file.
        if not isinstance(error, OSError) or error.errno != errno.EINVAL:
            raise
        raise CheckpointError(f"{name}: malformed ({error})") from error
    except Exception as error:
        # What a stranger's file holds may fail anywhere; to the caller it is a file that is wrong.
        raise CheckpointError(f"{name}: malformed ({type(error).__name__}: {error})") from error


@contextmanager
def writing(destination: Source) -> Iterator[BinaryIO]:
    """Open a path for writing, or take a binary file."""
    if isinstance(destination, str | PathLike):
        with Path(destination).open("wb") as file:
            yield file
    else:
        yield destination


def file_kind(file: BinaryIO) -> FileKind:
    """Tell the kind of a checkpoint by its first bytes; the position is restored."""
    start = file.tell()
    head = file.read(len(LEGACY_TORCH))
    file.seek(start)
    if head.startswith(b"PK"):
        return "torchscript" if _is_torchscript(file) else "torch"
    if head == LEGACY_TORCH:
        return "torch"
    if head[8:9] == b"{":
        return "safetensors"
    return "pickle"


def _is_torchscript(file: BinaryIO) -> bool:
    start = file.tell()
    try:
        size = file.seek(0, io.SEEK_END) - start
        file.seek(start)
        with zipfile.ZipFile(file) as archive:
            _check_expansion(size, sum(member.file_size for member in archive.infolist()))
            if len({*archive.namelist()}) < len(archive.namelist()):
                raise CheckpointError("zip archive: got a name twice, expected each once")
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"zip archive: truncated or malformed ({error})") from error
    finally:
        file.seek(start)


def _check_expansion(size: int, expanded: int) -> None:
    if expanded > _LARGEST_EXPANSION * size + _FREE_EXPANSION:
        raise CheckpointError(
            f"zip archive: got {size:,} bytes that stand for {expanded:,}, expected about as many; "
            "it is no archive of weights"
        )


def read_data(file: BinaryIO) -> Any:
    """Read a torch file or a network pickle as containers, tensors and plain values.

    Raises:
        UnsafeCheckpointError: The file asks for code to be run.
        CheckpointError: The file is truncated or malformed.
    """
    kind = file_kind(file)
    if kind == "pickle":
        return load_network_pickle(file)
    if kind in _UNUSUAL:
        raise CheckpointError(f"got {_UNUSUAL[kind]}, expected a torch file or a network pickle")
    try:
        _check_torch_keys(file)
        # Trainings store their options as the parser left them, and numpy's numbers: data, too.
        # What is safe is so for the whole process, until the first that says so is done.
        with _READING, torch.serialization.safe_globals(_PLAIN_TYPES):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise unsafe_or_malformed("torch file", error) from error
    except (OSError, MemoryError, CheckpointError):
        raise
    except Exception as error:
        # A damaged file can fail anywhere inside torch's reader.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"torch file: truncated or malformed ({reason})") from error


def _check_torch_keys(file: BinaryIO) -> None:
    """Refuse what torch's reader would take years for; the position is restored."""
    start = file.tell()
    if file.read(2) == b"PK":
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if name.endswith("/data.pkl"):
                    check_keys(io.BytesIO(archive.read(name)), 1)
    else:
        file.seek(start)
        check_keys(file, LEGACY_PICKLES)
    file.seek(start)


def read_safetensors(file: BinaryIO) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file.

    Raises:
        CheckpointError: The file is truncated or malformed.
    """
    data = file.read()
    try:
        tensors = safetensors.torch.load(data)
        (length,) = struct.unpack("<Q", data[:8])
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except (safetensors.SafetensorError, struct.error, ValueError) as error:
        raise CheckpointError(f"safetensors: truncated or malformed ({error})") from error
    return tensors, metadata


def read_own(file: BinaryIO, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the architecture of a file that `write_own` wrote.

    Raises:
        CheckpointError: The file is truncated, not ours, or holds another kind of network.
    """
    tensors, metadata = read_safetensors(file)
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(
            f"safetensors without styleclip metadata, expected one that holds a {kind}"
        )
    if metadata.get("kind") != kind:
        raise CheckpointError(
            f"got a network of the kind {metadata.get('kind')}, expected one of the kind {kind}"
        )
    try:
        config = json.loads(metadata["config"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"metadata: got no readable architecture ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"metadata: got the architecture {config!r}, expected a dictionary")
    return tensors, config


def write_own(
    file: BinaryIO, kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write tensors as safetensors with the kind and architecture of the network.

    Equal content gives equal bytes.
    """
    metadata = {"format": _FORMAT, "kind": kind, "config": json.dumps(config, sort_keys=True)}
    owned = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    file.write(_with_sorted_metadata(safetensors.torch.save(owned, metadata=metadata)))


def _with_sorted_metadata(content: bytes) -> bytes:
    """Put the metadata in order, which the library writes in another order every time."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    # The tensors begin at a multiple of eight bytes.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[start:]


def write_torch(file: BinaryIO, data: Mapping[str, Any]) -> None:
    """Write a torch file."""
    buffer = io.BytesIO()
    torch.save(dict(data), buffer)
    file.write(buffer.getvalue())


def skeleton(build: Callable[[], M]) -> M:
    """Build a module without memory for its weights, for `fill`."""
    with torch.device("meta"):
        return build()


def fill(module: M, tensors: Mapping[str, Tensor], prefix: str = "") -> M:
    """Give a skeleton its weights: float32, evaluation mode, no gradients.

    Args:
        module: The skeleton.
        tensors: Its weights by name.
        prefix: What stands before the module's own names.

    Raises:
        CheckpointError: A tensor is missing, extra, of another shape, or not finite; it is named.
    """
    check_tensors(tensors, {prefix + name: shape for name, shape in shapes_of(module).items()})
    values = {
        name.removeprefix(prefix): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    module.load_state_dict(values, assign=True)
    return module.eval().requires_grad_(False)


def tensors_of(data: Any, what: str) -> dict[str, Tensor]:
    """Check that something read from a file is a state dict.

    Raises:
        CheckpointError: It is not, an entry is no tensor, or the tensors stand for many more values
            than they have.
    """
    if not isinstance(data, Mapping) or not data:
        raise CheckpointError(f"{what}: got {describe(data)}, expected a state dict")
    for name, value in data.items():
        if not isinstance(name, str):
            raise CheckpointError(
                f"{what}: got a name of the type {type(name).__name__}, expected text"
            )
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{what}: entry {name} is {describe(value)}, expected a tensor")
    _check_sharing(data, what)
    return dict(data)


def _check_sharing(tensors: Mapping[str, Tensor], what: str) -> None:
    dense = [t for t in tensors.values() if t.layout == torch.strided and t.device.type == "cpu"]
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in dense)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in dense}
    held = sum(storages.values())
    if claimed > _MOST_SHARED * held + _FREE_EXPANSION:
        raise CheckpointError(
            f"{what}: got tensors of {claimed:,} bytes that share {held:,}, expected values of "
            "their own"
        )


def describe(data: Any) -> str:
    """Say in a few words what something read from a file is."""
    if isinstance(data, Mapping):
        # To write down any other key may take years.
        kinds = (name if isinstance(name, str) else type(name).__name__ for name in data)
        names = ", ".join(islice(kinds, 4))
        return f"a dictionary of {names}{', ...' if len(data) > 4 else ''}" if data else "nothing"
    return f"a {type(data).__name__}"
