"""Bundles of weights: what they name, whether it is there and sound, and other layouts of it."""

import io
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from styleclip_ops.checkpoints import (
    load_arcface,
    load_e4e,
    load_generator,
    load_mapper,
    save_rosinality_generator,
    save_safetensors,
)
from styleclip_ops.lpips import load_alexnet, load_linear
from tasks.bundles import DEMO_MODELS, Bundle, BundleError, Role, Weights, read_bundle, write_bundle
from tasks.models import Models, read_weights
from tasks.store.folders import split_url

Convertible = Literal["generator", "encoder", "identity", "mapper"]
Layout = Literal["safetensors", "rosinality"]

_LPIPS: Mapping[Role, Callable[[Any], torch.nn.Module]] = {
    "alexnet": load_alexnet,
    "lpips": load_linear,
}

_READERS: Mapping[Convertible, Callable[[Any], Any]] = {
    "generator": load_generator,
    "encoder": load_e4e,
    "identity": load_arcface,
    "mapper": load_mapper,
}


def add_to_bundle(models: str, role: Role, weights: Weights) -> str:
    """Name the weights of a role in a bundle, which is made if it is not there.

    Returns:
        The fingerprint of the weights.

    Raises:
        BundleError: The weights are not there, or have another digest, or the bundle is the demo's;
            nothing is changed then.
        CheckpointError: They are none of such a network; nothing is changed either.
    """
    if models == DEMO_MODELS:
        raise BundleError(
            f"models: got {models}, which is the bundle that comes with the product, expected the "
            "path of a JSON file"
        )
    folder, name = split_url(models)
    known = read_bundle(models).weights if folder.exists(name) else {}
    bundle = Bundle(models, {**known, role: weights})
    networks = Models(bundle, torch.device("cpu"))
    fingerprint = networks.fingerprint(role)
    if role in _LPIPS:
        # One of its two files may be named before the other.
        read_weights(bundle.locate(role), _LPIPS[role])
    else:
        networks.load(role)
    write_bundle(bundle)
    return fingerprint


def verify_bundle(networks: Models) -> list[dict[str, str]]:
    """Read every network of a bundle, and check that they fit each other.

    Args:
        networks: Of the bundle.

    Returns:
        Role, URL, fingerprint and what is wrong, empty where nothing is.
    """
    rows = []
    for role in networks.bundle.weights:
        row = {"role": role, "url": networks.bundle.locate(role), "fingerprint": "", "error": ""}
        try:
            row["fingerprint"] = networks.fingerprint(role)
            getattr(networks, role)
        except (ValueError, OSError) as error:
            row["error"] = str(error).removeprefix(f"{row['url']}: ")
        rows.append(row)
    by_role = {row["role"]: row for row in rows}
    pair = [by_role.get("generator"), by_role.get("encoder")]
    if all(row and not row["error"] for row in pair):
        by_role["encoder"]["error"] = _mismatch(networks)
    return rows


def convert_weights_file(source: str, destination: str, kind: Convertible, layout: Layout) -> None:
    """Read weights in any layout and write them in another.

    Raises:
        BundleError: Only generators have the rosinality layout.
    """
    if layout == "rosinality" and kind != "generator":
        raise BundleError(f"layout: got rosinality for {kind}, expected it for a generator")
    network, sink = read_weights(source, _READERS[kind]), io.BytesIO()
    if layout == "rosinality":
        save_rosinality_generator(network, sink)
    else:
        save_safetensors(network, sink)
    folder, name = split_url(destination)
    folder.write(name, sink.getvalue())


def _mismatch(networks: Models) -> str:
    """Say how the encoder's latents differ from the generator's; empty where they do not."""
    generator, encoder = networks.generator, networks.encoder.config
    wanted, got = (generator.num_ws, generator.config.w_dim), (encoder.num_ws, encoder.w_dim)
    if wanted == got:
        return ""
    return (
        f"encoder: got latents W+ of {[*got]}, expected the generator's {[*wanted]}; take the one "
        "that was trained for this generator"
    )
