"""Doctor: do the assets of a workspace and a bundle fit each other, before a run finds out?

Fingerprints say which assets were made for each other. That they still are what they say is seen
in what they do: some style channels are moved, rendered, and embedded, and the CLIP direction that
comes out is compared with the one that the direction store predicts.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from styleclip_ops.checkpoints import load_mapper
from styleclip_ops.errors import StyleClipError, check_integers
from styleclip_ops.generator import Generator
from styleclip_ops.mapper import FullStyleSpaceMapper, Mapper
from styleclip_ops.relevance import channel_clip_directions
from styleclip_ops.style_statistics import sample_style_codes, style_statistics
from styleclip_ops.stylespace import StyleSpaceLayout
from tasks.checks.findings import Finding, Soundness, unreadable
from tasks.directions import Directions, DirectionStore
from tasks.latents import BINDING, LatentStore
from tasks.latents import STORE as LATENT_ARRAYS
from tasks.mappers import WEIGHTS, trained_for
from tasks.models import Models, describe_device, read_models
from tasks.places import DIRECTION_STORES, LATENT_STORES, MAPPERS
from tasks.runs import ROLES_OF_A_RUN
from tasks.store.folders import Folder, nearest
from tasks.weights import verify_bundle

# Median cosine of measured and stored directions. On the demo networks 4 images measure
# what 12 stored with 0.79, 8 with 0.93; directions of other channels give 0.1, of another generator
# 0.0 to 0.2, and at most 0.5 where an embedding of few dimensions has one that all channels share.
SOUND_COSINE, WRONG_COSINE = 0.7, 0.5
# Median distance of measured and stored channel means, in deviations. 200 random faces know a mean
# to 0.07.
SOUND_MEAN, WRONG_MEAN = 0.25, 0.5
# Cosine of an inversion's embedding, as stored and as rendered now.
SOUND_LATENT, WRONG_LATENT = 0.99, 0.9
_STATISTICS, _LATENTS = 200, 4

_BROKEN = (ValueError, OSError, KeyError, TypeError, StyleClipError, pa.ArrowException)


def diagnose(
    workspace: str, models: str, device: str, channels: int, images: int
) -> Iterator[Finding]:
    """Check a bundle, and the assets of a workspace that a run with it would use.

    Args:
        workspace: URL of the workspace.
        models: URL of the bundle.
        device: See `tasks.models.open_models`.
        channels: Style channels whose effect is measured.
        images: Images that it is measured on; more are slower and surer.

    Yields:
        A finding for everything that was looked at.

    Raises:
        BundleError: There is no such bundle.
        ConfigError: A number is outside its range.
    """
    check_integers(1, 100_000, channels=channels, images=images)
    networks, root = read_models(models, device), Folder(workspace)
    yield Finding("device", describe_device(networks.device), "any", verdict="sound")
    yield _reachable(root)
    found = [*_networks(networks)]
    yield from found
    if any(finding.verdict == "wrong" for finding in found):
        yield Finding(
            f"assets of {root.url}",
            "networks that cannot be used",
            "sound ones to check them with",
            "fix the bundle first",
            "suspicious",
        )
        return
    yield from _directions(root, networks, channels, images)
    yield from _mappers(root, networks)
    yield from _latents(root, networks)


def _reachable(root: Folder) -> Finding:
    try:
        names = root.names()
    except Exception as error:
        # Every store has errors of its own.
        remedy = "see to the network, the endpoint and the credentials in the environment"
        return unreadable(f"workspace {root.url}", error, "a folder", remedy)
    if names:
        got = f"a folder of {len(names)} entries"
        return Finding(f"workspace {root.url}", got, "a folder that can be read", verdict="sound")
    remedy = f"give another{nearest(root.url)}, or begin one with `styleclip align`"
    got, wanted = "nothing there, or nothing in it", "a workspace"
    return Finding(f"workspace {root.url}", got, wanted, remedy, "suspicious")


def _networks(networks: Models) -> Iterator[Finding]:
    """Read every network, and see that they fit each other."""
    for role in ROLES_OF_A_RUN:
        if not networks.has(role):
            remedy = f"add it with `styleclip weights add {role}`"
            yield Finding(f"bundle {networks.bundle.url}", f"no {role}", "one", remedy)
    for row in verify_bundle(networks):
        what, remedy = f"{row['role']} {row['url']}", "restore, fetch or replace it"
        if row["error"]:
            yield Finding(what, row["error"], "readable weights that fit the others", remedy)
        else:
            yield Finding(what, row["fingerprint"], "readable weights", verdict="sound")


def _directions(root: Folder, networks: Models, channels: int, images: int) -> Iterator[Finding]:
    folder, own = root / DIRECTION_STORES, 0
    wanted = networks.marks("generator", "clip")
    for name in folder.names():
        store = DirectionStore(folder / name)
        if not store.exists:
            continue
        what = f"directions {name}"
        try:
            attributes = store.attributes
            if _foreign(attributes, wanted):
                yield _other(what)
                continue
            own += 1
            if store.ledger.pending():
                yield Finding(
                    what,
                    "a store that is not finished",
                    "all channels",
                    "`styleclip relevance` finishes it; a run would do so first",
                    "suspicious",
                )
                continue
            found = store.read()
            yield from _check_directions(what, found, attributes, networks, channels, images)
        except _BROKEN as error:
            yield unreadable(what, error, "a store that can be read", _REMEASURE)
    if not own:
        yield Finding(
            f"directions of {root.url}",
            "none for this generator and CLIP",
            "a store, for the method global",
            "`styleclip relevance` makes one, once; a run that needs it does so first",
            "suspicious",
        )


_REMEASURE = "remove the store and run `styleclip relevance` again"


def _check_directions(
    what: str,
    found: Directions,
    attributes: Mapping[str, Any],
    networks: Models,
    channels: int,
    images: int,
) -> Iterator[Finding]:
    layout = networks.generator.layout
    sizes = [len(found.channel_std), *found.channel_clip_directions.shape]
    wanted = [layout.size, len(layout.editable_channels), networks.clip.embedding_dim]
    fits = _same(
        f"{what}, channels, editable ones and width of an embedding", sizes, wanted, _REMEASURE
    )
    yield fits
    if fits.verdict == "wrong":
        return
    seed = int(attributes["seed"])
    count = min(_STATISTICS, int(attributes["num_statistics"]))
    measured = style_statistics(networks.generator, count, seed=seed)
    apart = (measured.mean.cpu() - found.channel_mean).abs() / found.channel_std.clamp(min=1e-6)
    yield Finding(
        f"{what}, mean of the style channels",
        f"{apart.median():.2f} deviations from what {count} random faces have",
        f"at most {SOUND_MEAN}",
        f"the store is of another generator than it says: {_REMEASURE}",
        _judged(-float(apart.median()), -SOUND_MEAN, -WRONG_MEAN),
    )
    moved = _moving_channels(found, layout, channels)
    if not len(moved):
        yield Finding(
            f"{what}, effect of channels",
            "no channel that moves the embedding",
            "some",
            "if they were imported, import them again; else measure them again",
            "suspicious",
        )
        return
    stored = found.channel_clip_directions[torch.searchsorted(layout.editable_channels, moved)]
    cosines = F.cosine_similarity(_effect(networks, found, attributes, moved, images), stored)
    median = float(cosines.median())
    yield Finding(
        f"{what}, effect of {len(moved)} channels",
        f"a median cosine of {median:.2f} to the stored directions, {float(cosines.min()):.2f} "
        "at least",
        f"a median of at least {SOUND_COSINE}",
        f"the store is of other networks than it says, or damaged: {_REMEASURE}",
        _judged(median, SOUND_COSINE, WRONG_COSINE),
    )


def _effect(
    networks: Models,
    found: Directions,
    attributes: Mapping[str, Any],
    channels: Tensor,
    images: int,
) -> Tensor:
    """Measure CLIP directions [C, E] on the first images that the store was measured on."""
    count = min(images, int(attributes["num_images"]))
    codes = sample_style_codes(networks.generator, count, seed=int(attributes["seed"]))
    # Slopes are compared with a small step.
    step = min(float(attributes["step"]), 1.0 if attributes["mode"] == "fast" else torch.inf)
    measured = channel_clip_directions(
        networks.generator,
        networks.clip,
        torch.cat(list(codes)),
        found.channel_std.to(networks.device),
        channels,
        step,
    )
    return measured.cpu()


def _moving_channels(found: Directions, layout: StyleSpaceLayout, count: int) -> Tensor:
    """The channels that vary most, layer by layer in turns; silent ones are left out."""
    editable = layout.editable_channels
    silent = set(editable[found.channel_clip_directions.norm(dim=1) == 0].tolist())
    turns = list[tuple[int, int]]()
    for layer in layout.layers:
        if not layer.is_torgb:
            order = found.channel_std[layer.span].argsort(descending=True) + layer.start
            moving = [channel for channel in order.tolist() if channel not in silent]
            turns += enumerate(moving)
    chosen = sorted(channel for _, channel in sorted(turns)[:count])
    return torch.tensor(chosen, dtype=torch.long)


def _mappers(root: Folder, networks: Models) -> Iterator[Finding]:
    folder = root / MAPPERS
    for name in folder.names():
        what, place = f"mapper {name}", folder / name
        if not place.exists(WEIGHTS):
            remedy = "the same `styleclip train-mapper` or run finishes it"
            yield Finding(what, "no weights yet", "a finished training", remedy, "suspicious")
            continue
        try:
            if trained_for(place) not in ("", networks.fingerprint("generator")):
                yield _other(what)
                continue
            mapper = load_mapper(io.BytesIO(place.read(WEIGHTS))).to(networks.device).eval()
            yield _check_mapper(what, mapper, networks.generator)
        except _BROKEN as error:
            remedy = "train it for this generator, or remove it"
            yield unreadable(what, error, "a mapper of this generator", remedy)


@torch.no_grad()
def _check_mapper(what: str, mapper: Mapper, generator: Generator) -> Finding:
    z = torch.randn(2, generator.config.z_dim, generator=torch.Generator().manual_seed(0))
    w_plus = generator.w_to_w_plus(generator.mapping(z.to(generator.w_avg)), 0.7)
    s = generator.w_plus_to_s(w_plus)
    latents = s if isinstance(mapper, FullStyleSpaceMapper) else w_plus
    change = float((mapper.edit(latents) - latents).norm() / latents.norm())
    remedy = "train it again: it edits nothing, or destroys every image"
    verdict: Soundness = "sound" if 0 < change < 1 else "suspicious"
    got = f"a change by {change:.1%} of two random latents"
    return Finding(what, got, "above 0 and below 100%", remedy, verdict)


def _latents(root: Folder, networks: Models) -> Iterator[Finding]:
    folder, own, others = root / LATENT_STORES, 0, 0
    wanted = networks.marks(*BINDING)
    for name in folder.names():
        store, what = LatentStore(folder / name), f"latents {name}"
        if not (store.folder / LATENT_ARRAYS).exists("zarr.json"):
            continue
        try:
            if _foreign(store.attributes, wanted):
                others += 1
                yield _other(what)
                continue
            own += 1
            yield from _check_latents(what, store, networks)
        except _BROKEN as error:
            remedy = "restore the store, or remove it and invert again"
            yield unreadable(what, error, "a store that can be read", remedy)
    if others and not own:
        yield Finding(
            "latents",
            "stores of other networks only",
            "one of these networks",
            "give the bundle that they were made with; with this one a run inverts all faces anew",
            "suspicious",
        )


@torch.no_grad()
def _check_latents(what: str, store: LatentStore, networks: Models) -> Iterator[Finding]:
    generator, widths = networks.generator, store.none()
    fits = _same(
        f"{what}, layers, width and width of an embedding",
        [*widths.w_plus.shape[1:], *widths.inversion_clip.shape[1:]],
        [generator.num_ws, generator.config.w_dim, networks.judge.embedding_dim],
        "remove the store and invert again",
    )
    yield fits
    tables = (table.to_pylist() for table in store.ledger.results())
    sound = ([r["row"] for r in table if r["status"] == "ok"] for table in tables)
    rows = next(filter(None, sound), [])
    if fits.verdict == "wrong" or not rows:
        return
    stored = store.read(rows[:_LATENTS])
    images = generator(torch.from_numpy(stored.w_plus).to(networks.device))
    embedded = networks.judge.embed_images(images).cpu()
    least = float(F.cosine_similarity(embedded, torch.from_numpy(stored.inversion_clip)).min())
    yield Finding(
        f"{what}, embeddings of {len(images)} inversions",
        f"a cosine of {least:.3f} at least, stored and rendered now",
        f"at least {SOUND_LATENT}",
        "the latents are of other networks than they say: remove the store and invert again",
        _judged(least, SOUND_LATENT, WRONG_LATENT),
    )


def _judged(value: float, sound: float, wrong: float) -> Soundness:
    """Judge a value of which more is better; NaN is wrong."""
    if value >= sound:
        return "sound"
    return "suspicious" if value >= wrong else "wrong"


def _same(what: str, got: Sequence[int], wanted: Sequence[int], remedy: str) -> Finding:
    verdict: Soundness = "sound" if got == wanted else "wrong"
    told = [", ".join(map(str, sizes)) for sizes in (got, wanted)]
    return Finding(what, told[0], told[1], remedy, verdict)


def _foreign(got: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    return any(got.get(name) != mark for name, mark in wanted.items())


def _other(what: str) -> Finding:
    remedy = "nothing: a run with this bundle leaves it alone"
    return Finding(what, "fingerprints of other networks", "any", remedy, "sound")
