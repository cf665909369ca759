"""A device beside the processor, for machines without one: it computes as the processor does, and
insists on what an accelerator insists on.

Tensors on it are wrappers of tensors of the processor that call themselves cuda:0. An operation
that mixes the two, or that takes a tensor there for an array, raises what torch raises on CUDA; a
copy between them, a number of no dimensions and indices on the processor are allowed, as there.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten

DEVICE = torch.device("cuda", 0)

_COPIES = {aten.copy_.default, aten._to_copy.default}
_INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}


class Remote(torch.Tensor):
    """A tensor on the other device."""

    @staticmethod
    def __new__(cls, own: torch.Tensor) -> "Remote":
        # Autograd has a thread for every real accelerator, and takes lazy tensors in its own.
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            own.size(),
            strides=own.stride(),
            storage_offset=own.storage_offset(),
            dtype=own.dtype,
            layout=own.layout,
            device="lazy",
            requires_grad=own.requires_grad,
        )
        made.own = own
        return made

    @property
    def device(self) -> torch.device:
        return DEVICE

    def tolist(self) -> Any:
        return self.own.tolist()

    def numpy(self, **_: Any) -> None:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, *_: Any) -> None:
        self.numpy()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.own.detach().requires_grad_(self.requires_grad).__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return f"Remote({self.own!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _compute(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Hands on what makes tensors, too."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _compute(func, args, kwargs or {})


@contextmanager
def other_device() -> Iterator[str]:
    """Have torch find one accelerator, in all threads that begin meanwhile; yields its name."""
    thread_run = threading.Thread.run

    def run(thread: threading.Thread) -> None:
        with _in_this_thread():
            thread_run(thread)

    replaced: dict[Any, dict[str, Any]] = {
        threading.Thread: {"run": run},
        torch.accelerator: {
            "current_accelerator": lambda check_available=False: torch.device("cuda"),
            "device_count": lambda: 1,
            "synchronize": lambda device=None: None,
        },
        torch.cuda: {  # noqa: TID251
            "_lazy_init": lambda: None,
            "get_device_name": lambda device=None: "simulated",
            "is_bf16_supported": lambda including_emulation=True: False,
            "memory_allocated": lambda device=None: 1,
            "max_memory_allocated": lambda device=None: 1,
            "memory_reserved": lambda device=None: 1,
        },
    }
    with pytest.MonkeyPatch.context() as patch, _in_this_thread():
        for where, values in replaced.items():
            for name, value in values.items():
                patch.setattr(where, name, value)
        yield str(DEVICE)


@contextmanager
def _in_this_thread() -> Iterator[None]:
    # Else `torch.tensor(values, device=...)` makes its tensor where no mode sees it.
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with _Mode():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(False)


def _compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    remote = [tensor for tensor in tensors if isinstance(tensor, Remote)]
    local = [tensor for tensor in tensors if not isinstance(tensor, Remote)]
    _check_devices(func, args, remote, local)
    to_remote = bool(remote)
    if func in _COPIES:
        to_remote = isinstance(args[0], Remote)
    if kwargs.get("device") is not None:
        to_remote = kwargs["device"].type != "cpu"
        kwargs = kwargs | {"device": torch.device("cpu")}
    found = func(*tree_map(_own, args), **tree_map(_own, kwargs))
    if to_remote:
        found = tree_map(lambda x: Remote(x) if isinstance(x, torch.Tensor) else x, found)
    return return_and_correct_aliasing(func, args, kwargs, found) if remote else found


def _check_devices(
    func: Any, args: tuple[Any, ...], remote: list[Remote], local: list[torch.Tensor]
) -> None:
    if func in _COPIES or not remote:
        return
    if func in _INDEXING:
        mixed = not isinstance(args[0], Remote)
    else:
        mixed = any(tensor.dim() for tensor in local)
    if mixed:
        raise RuntimeError(
            f"{func}: Expected all tensors to be on the same device, but found at least two "
            "devices, cuda:0 and cpu!"
        )


def _own(value: Any) -> Any:
    return value.own if isinstance(value, Remote) else value
