"""Commands about bundles of weights."""

import time

from flows.progress import say
from flows.summary import Check, Summary
from tasks.bundles import DEMO_MODELS, Role, Weights
from tasks.models import open_models
from tasks.runs import ROLES_OF_A_RUN
from tasks.weights import Convertible, Layout, add_to_bundle, convert_weights_file, verify_bundle


def add_weights(
    role: Role,
    uri: str,
    *,
    models: str,
    sha256: str = "",
    licence: str = "",
    source: str = "",
) -> Summary:
    """Name the weights of a network in a bundle; the bundle is made if it is not there.

    Args:
        role: What the network does.
        uri: Its file: published or our own layout; a folder for a Hugging Face CLIP. A relative
            one is relative to the folder of the bundle.
        models: URL of the bundle's JSON file.
        sha256: Expected digest, 64 hexadecimal digits; other content is refused from then on.
        licence: Under which the weights may be used.
        source: Where their authors published them.
    """
    began = time.monotonic()
    fingerprint = add_to_bundle(models, role, Weights(uri, sha256, licence, source))
    facts = {"fingerprint": fingerprint}
    return Summary("weights", models, {role: 1}, time.monotonic() - began, facts)


def verify_weights(models: str = DEMO_MODELS, *, device: str = "auto") -> Summary:
    """Read every network of a bundle, and check digests and whether they fit each other.

    Args:
        models: The URL of its JSON file, or `demo`.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    began = time.monotonic()
    rows = verify_bundle(open_models(models, device))
    wrong = [row for row in rows if row["error"]]
    lacking = {*ROLES_OF_A_RUN} - {row["role"] for row in rows}
    if lacking:
        say(
            f"weights: {models} names no {', '.join(sorted(lacking))}, which `styleclip run` needs"
            "; `styleclip weights add` adds one"
        )
    for row in wrong:
        say(f"{row['role']} ({row['url']}): {row['error']}")
    counts = {"sound": len(rows) - len(wrong), "failed": len(wrong), "wrong": len(lacking)}
    return Check("weights", models, counts, time.monotonic() - began, {"weights": rows})


def convert_weights(
    source: str,
    destination: str,
    *,
    kind: Convertible = "generator",
    layout: Layout = "safetensors",
) -> Summary:
    """Write weights in another layout.

    Args:
        source: A checkpoint in any published layout, or our own.
        destination: Where to write.
        kind: Of the network.
        layout: safetensors (our own), or rosinality for generators.
    """
    began = time.monotonic()
    convert_weights_file(source, destination, kind, layout)
    return Summary("convert", destination, {kind: 1}, time.monotonic() - began)
