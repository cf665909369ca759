"""Networks by role: where their weights are, loaded once a process; the one place for devices.

A bundle is a JSON file that names the weights: {"generator": {"uri": "generator.safetensors",
"sha256": ..., "licence": ..., "source": ...}, ...}. Relative URIs are relative to the bundle.
"""

import hashlib
import io
import json
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from styleclip_ops.checkpoints import load_arcface, load_clip, load_e4e, load_generator
from styleclip_ops.clip import ClipModel
from styleclip_ops.encoder import E4eEncoder
from styleclip_ops.errors import ConfigError
from styleclip_ops.generator import Generator
from styleclip_ops.identity import ArcFace
from styleclip_ops.lots import lot_size, optimization_lot_size
from styleclip_ops.lpips import Lpips, load_lpips
from tasks.bundles import Bundle, BundleError, Role, fingerprint_name, read_bundle
from tasks.memory import keep_freed_memory
from tasks.once import once
from tasks.slots import own_slot
from tasks.store.folders import Folder, nearest, sha256, split_url

M = TypeVar("M", bound=torch.nn.Module)


class Models:
    """The networks of a bundle, each loaded when it is first asked for.

    Args:
        bundle: Where the weights are.
        device: Where the networks run.
    """

    def __init__(self, bundle: Bundle, device: torch.device) -> None:
        self.bundle, self.device = bundle, device
        self._lock = threading.RLock()
        self._networks: dict[Role, torch.nn.Module] = {}
        self._fingerprints: dict[Role, str] = {}

    def has(self, role: Role) -> bool:
        """Return whether the bundle names such a network."""
        return role in self.bundle.weights

    @property
    def generator(self) -> Generator:
        """The generator."""
        return self._load("generator", load_generator)

    @property
    def lot(self) -> int:
        """How many images the networks of an edit get at a time, see `styleclip_ops.lots`."""
        return lot_size(self.generator.resolution, self.device)

    @property
    def optimization_lot(self) -> int:
        """How many optimizations are at work at a time."""
        return optimization_lot_size(self.generator.resolution, self.device)

    @property
    def encoder(self) -> E4eEncoder:
        """The e4e encoder."""
        return self._load("encoder", load_e4e)

    @property
    def identity(self) -> ArcFace:
        """The identity network."""
        return self._load("identity", load_arcface)

    @property
    def clip(self) -> ClipModel:
        """The CLIP that edits are made with."""
        return self._load("clip", load_clip)

    @property
    def judge(self) -> ClipModel:
        """The CLIP that edits are judged with: the one they are made with where there is no other.

        A report says which.
        """
        return self._load("judge", load_clip) if self.has("judge") else self.clip

    def load(self, *roles: Role) -> None:
        """Load some networks now, so that nothing waits for them later.

        Raises:
            BundleError: The bundle lacks some.
        """
        self.bundle.require(*(role for role in roles if role != "judge"))
        for role in roles:
            getattr(self, role)

    @property
    def lpips(self) -> Lpips:
        """The perceptual distance, from torchvision's AlexNet and the weights of LPIPS."""
        return self._load("lpips", self._join_lpips)

    @property
    def alexnet(self) -> Lpips:
        """The network that LPIPS compares pictures by."""
        return self.lpips

    def _join_lpips(self, linear: Any) -> Lpips:
        self.fingerprint("alexnet")
        url = self.bundle.locate("alexnet")
        return read_weights(url, lambda alexnet: load_lpips(alexnet, linear))

    def fingerprint(self, role: Role) -> str:
        """Return 16 hexadecimal digits that name the content of a network's weights.

        Those of the judge are the CLIP's where the bundle has no other.

        Raises:
            BundleError: The digest is not the expected one.
        """
        if role == "judge" and not self.has(role):
            role = "clip"
        with self._lock:
            if role not in self._fingerprints:
                self._fingerprints[role] = self._digest(role)
            return self._fingerprints[role]

    def fingerprints(self, *roles: Role) -> dict[str, str]:
        """Return the fingerprints of several networks, by role.

        Raises:
            BundleError: The bundle lacks some, or a digest is not the expected one.
        """
        self.bundle.require(*roles)
        return {role: self.fingerprint(role) for role in roles}

    def marks(self, *roles: Role) -> dict[str, str]:
        """Return the fingerprints of several networks, by the names that stored data have for them.

        Raises:
            BundleError: A digest is not the expected one.
        """
        return {fingerprint_name(role): self.fingerprint(role) for role in roles}

    def _digest(self, role: Role) -> str:
        url, entry = self.bundle.locate(role), self.bundle.weights[role]
        folder, name = split_url(url)
        names = _files(folder / name)
        if names:
            listing = [(n, sha256((folder / name).read(n))) for n in names]
            digest = sha256(json.dumps(listing).encode())
        else:
            try:
                digest = _file_digest(folder, name)
            except FileNotFoundError:
                raise BundleError(
                    f"{role}: got {url}, which is not there{nearest(url)}, expected weights; "
                    f"`styleclip weights add {role}` names others"
                ) from None
        if entry.sha256 and digest != entry.sha256.strip().lower():
            raise BundleError(
                f"{url}: got sha256 {digest}, expected {entry.sha256}; "
                "the file is damaged or another one"
            )
        return digest[:16]

    def _load(self, role: Role, read: Callable[[Any], M]) -> M:
        with self._lock:
            if role not in self._networks:
                self.fingerprint(role)
                # Those of Hugging Face.
                is_clip = role in ("clip", "judge")
                network = read_weights(self.bundle.locate(role), read, folders=is_clip)
                network = network.to(self.device).eval().requires_grad_(False)
                self._networks[role] = network
            return cast(M, self._networks[role])


class NamedContent(io.BytesIO):
    """What was read of a file, which errors name."""

    def __init__(self, content: bytes, url: str) -> None:
        super().__init__(content)
        self.name = url


def read_weights(url: str, read: Callable[[Any], M], folders: bool = False) -> M:
    """Read a file by a function, or where it takes folders one of them; errors name the URL."""
    folder, name = split_url(url)
    inside = folder / name
    names = _files(inside)
    if not names:
        return read(NamedContent(folder.read(name), url))
    if not folders:
        raise BundleError(f"{url}: got a folder, expected a file of weights")
    # transformers reads folders of this machine only.
    with tempfile.TemporaryDirectory() as copy:
        for entry in names:
            (Path(copy) / entry).write_bytes(inside.read(entry))
        return read(copy)


def _files(folder: Folder) -> list[str]:
    """The names of the files directly inside; there may be folders beside them."""
    names = folder.names()
    inside = {*folder.files()} if names else ()
    return [name for name in names if name in inside]


def _file_digest(folder: Folder, name: str) -> str:
    digest = hashlib.sha256()
    with folder.open(name) as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def best_device() -> str:
    """Return an accelerator of this machine, of several one that no other process of ours has.

    There may be more processes than accelerators, which then share them; without any, it is the
    processor.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return "cpu"
    count = torch.accelerator.device_count()
    return f"{accelerator.type}:{own_slot() % count}" if count > 1 else accelerator.type


def describe_device(device: torch.device) -> str:
    """Name a device and the arithmetic on it: edits made under one name are equal bit by bit."""
    if device.type == "cpu":
        name = f"{torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()} threads"
    else:
        name = str(getattr(torch.get_device_module(device), "get_device_name", str)(device))
    return f"{device.type} {name}, torch {torch.__version__}"


def has_bfloat16_units(device: torch.device) -> bool:
    """Return whether a device has units for bfloat16, and computes faster in it than in float32."""
    module: Any = torch.get_device_module(device)
    if device.type == "cuda":
        return bool(module.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(module._is_avx512_bf16_supported() or module._is_amx_tile_supported())
    return False


def settle(device: torch.device) -> None:
    """Wait until a device has done what it was given, so that its time can be told."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def device_memory(device: torch.device) -> dict[str, int]:
    """Return bytes of an accelerator's memory: allocated, the peak, reserved; empty without one."""
    if device.type == "cpu":
        return {}
    module: Any = torch.get_device_module(device)
    asked = {
        "allocated": "memory_allocated",
        "peak": "max_memory_allocated",
        "reserved": "memory_reserved",
    }
    return {
        name: int(getattr(module, call)(device))
        for name, call in asked.items()
        if hasattr(module, call)
    }


def read_models(url: str, device: str = "auto") -> Models:
    """Open a bundle as its files are now.

    Args:
        url: Of the bundle's JSON file.
        device: `auto`, or a device that torch knows: cpu, cuda, cuda:1, mps.

    Raises:
        BundleError: It is no bundle.
        ConfigError: torch has no such device.
    """
    return Models(read_bundle(url), named_device(device))


def named_device(name: str) -> torch.device:
    """Return a device by its name.

    Raises:
        ConfigError: torch knows none of this name, or does not reach it on this machine.
    """
    expected = "expected auto, cpu, cuda, cuda:1 or mps"
    try:
        device = torch.device(best_device() if name == "auto" else name)
    except RuntimeError:
        raise ConfigError(f"device: got {name!r}, {expected}") from None
    if device.type == "cpu":
        return device
    here = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if here else 0
    if here is None or here.type != device.type or (device.index or 0) >= count:
        found = f"{count} of the type {here.type}" if here else "none"
        raise ConfigError(
            f"device: got {name!r}, {expected}; torch {torch.__version__} finds {found} here: "
            "give another, or install the build of torch for yours, see README"
        )
    return device


@once
def open_models(url: str, device: str = "auto") -> Models:
    """Open a bundle once a process, see `read_models`, and have freed memory kept from then on."""
    keep_freed_memory()
    return read_models(url, device)
