"""Edits: rows of a manifest -> edited images, one result row each."""

import json
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from manifests.schemas import RESULTS
from styleclip_ops.arithmetic import synthesizer
from styleclip_ops.clip import ClipModel
from styleclip_ops.direction import style_direction, text_direction
from styleclip_ops.errors import NoChannelError, StyleClipError
from styleclip_ops.lots import in_lots
from styleclip_ops.mapper import FullStyleSpaceMapper
from styleclip_ops.metrics import (
    EditMetrics,
    ImageEmbeddings,
    cosine_similarity,
    edit_metrics,
)
from styleclip_ops.optimize import OptimizeConfig, optimize_latents, optimize_style_codes
from styleclip_ops.pictures import tensor_to_images
from styleclip_ops.warm_start import RandomFaces, draw_random_faces, prompt_offset
from tasks.arithmetic import choose_arithmetic
from tasks.directions import Directions, DirectionStore
from tasks.frozen import read_card
from tasks.latents import Latents, LatentStore
from tasks.mappers import MapperConfig, mapper_folder, read_mapper, slug
from tasks.models import Models, describe_device, open_models, settle
from tasks.once import once
from tasks.outputs import Output, altered_files, open_output
from tasks.overlap import behind
from tasks.places import RunPlaces
from tasks.provenance import CODE_VERSION
from tasks.row_logs import log_failures
from tasks.runs import (
    RunError,
    RunSettings,
    is_stale,
    read_settings,
    run_ledger,
    run_places,
    store_of,
)
from tasks.selection import Selection, rows_to_redo
from tasks.stopwatch import EDITING, LOADING, READING, SCORING, WRITING, Stopwatch
from tasks.store.folders import Folder, sha256
from tasks.store.ledger import Row

# A schema makes the list anew each time it is asked.
_COLUMNS = tuple(RESULTS.names)

# A network in another memory format is a copy, and a compiled one takes long to make.
_synthesizer = lru_cache(maxsize=4)(synthesizer)

# Edits that are read and scored together; how many changes none of them.
EDIT_BATCH = 8
# Edited pictures that wait to be written; of 1024 px each has 3 MB.
MOST_WAITING = 32


def edit_pairs_shard(
    run: str,
    device: str,
    shard: int,
    retry: Sequence[str] = (),
    again: Selection | None = None,
    batch_size: int = EDIT_BATCH,
    redo_damaged: bool = False,
) -> dict[str, int]:
    """Make the edits of one shard of a run and commit them.

    Of a shard that is committed, only rows are made that were made with other assets than the run
    has now, or whose status is asked for; or where a selection is given, only those that it takes.
    The others stay as they are.

    Args:
        run: URL of the run.
        device: See `tasks.models.open_models`.
        shard: Its number.
        retry: Statuses of rows to make again.
        again: Which rows to make again, also those that are ok.
        batch_size: Edits that are read and scored together.
        redo_damaged: Also make rows again whose picture is not there as it was committed, or whose
            image has another latent since.

    Returns:
        Rows by status that were made; nothing where another process committed the shard.
    """
    folder, watch = Folder(run), Stopwatch()
    with watch.spend(LOADING):
        settings = read_settings(folder)
        networks = open_models(settings.models, device)
        _check_fingerprints(settings, networks)
    ledger = run_ledger(folder)
    before = ledger.read_commit(shard) if ledger.is_committed(shard) else None
    done = ledger.rows(shard).to_pylist() if before else []
    if before and again is not None:
        redone = rows_to_redo(ledger, shard, again, retry)
    else:
        due = (row for row in done if row["status"] in retry or is_stale(row, settings))
        redone = {row["pair_id"] for row in due}
    if redo_damaged:
        redone |= _damaged(done, run_places(folder)) | _of_former_latents(done, store_of(settings))
    kept = {row["pair_id"]: row for row in done if row["pair_id"] not in redone}
    units = ledger.units(shard).to_pylist()
    rows = [kept.get(unit["pair_id"]) or begin_row(unit, settings, shard) for unit in units]
    new = [row for row in rows if row["pair_id"] not in kept]
    if before and not new:
        return {}
    with watch.spend(LOADING):
        networks.load("generator", "judge", "identity")
    editor = Editor(settings, networks, watch, lambda: int(read_card(folder).get("rows", 0)))
    output = open_output(folder, settings.output, settings.image_format, shard, watch)
    with behind(MOST_WAITING) as later:
        for batch in editor.batches(new, batch_size):
            for edited in editor.edit(batch):
                later(partial(edited.write, output))
    with watch.spend(WRITING):
        output.close()
    facts: Row = {"statuses": dict(Counter(row["status"] for row in rows))}
    facts |= watch.facts() | {"made": datetime.now(UTC).isoformat()}
    # With these `verify` makes the rows again; of those that were kept, an earlier commit says it.
    facts |= {"device": describe_device(networks.device), "arithmetic": str(editor.arithmetic)}
    facts |= {"edited": [row["pair_id"] for row in new]} if before else {}
    commit = ledger.commit(shard, pa.Table.from_pylist(rows, RESULTS), facts, before)
    if not ledger.wrote(commit):
        output.discard()
        return {}
    log_failures(folder.url, shard, "pair_id", new)
    return dict(Counter(row["status"] for row in new))


def _damaged(rows: Iterable[Row], places: RunPlaces) -> set[str]:
    """Pair ids of edits whose picture is not there as it was committed."""
    edits = {
        places.find_edit(row["output_uri"]) or row["output_uri"]: row
        for row in rows
        if row["status"] == "ok"
    }
    altered = altered_files({uri: row["output_sha256"] for uri, row in edits.items()})
    return {edits[uri]["pair_id"] for uri in altered}


def _of_former_latents(rows: Sequence[Row], store: LatentStore) -> set[str]:
    """Pair ids of edits of latents that were inverted again since, and came out otherwise."""
    edited = [row for row in rows if row["latent_sha256"]]
    now = store.digests_of([row["image_id"] for row in edited])
    pairs = zip(edited, now, strict=True)
    return {row["pair_id"] for row, digest in pairs if digest not in (None, row["latent_sha256"])}


@dataclass(frozen=True)
class Batch:
    """Rows of one method that are edited together, with what is stored of their images.

    Attributes:
        method: Of all rows.
        rows: N of them.
        places: [N] rows of their images in the W+ store.
        latents: Of N images.
    """

    method: str
    rows: list[Row]
    places: tuple[int, ...]
    latents: Latents


@dataclass(frozen=True)
class FoundEdit:
    """What a method found for a batch, before it is given a strength.

    Attributes:
        latents: Of the images, in the space of the edit.
        offset: From there to the edit of alpha 1.
        render: Makes images of such latents.
    """

    latents: Tensor
    offset: Tensor
    render: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def at(self, alphas: Tensor) -> Tensor:
        """Render the images with the strengths [N]."""
        shape = (-1, *(1 for _ in self.latents.shape[1:]))
        return self.render(self.latents + alphas.reshape(shape).to(self.latents) * self.offset)


@dataclass(frozen=True)
class Edited:
    """An edited image that is not written yet.

    Attributes:
        row: Its result, which lacks only where it is.
        picture: The image.
    """

    row: Row
    picture: Image.Image

    def write(self, output: Output) -> None:
        """Write the image, and fill in its row where it is."""
        row = self.row
        name = f"{slug(row['target_prompt'])}-{row['method']}-{row['alpha']:g}-{row['pair_id']}"
        uri, digest = output.write(row["image_id"], name, self.picture, _provenance(row))
        row |= {"output_uri": uri, "output_sha256": digest}


class Editor:
    """Edit rows with the networks and assets of a run.

    Args:
        settings: Of the run.
        networks: Its networks.
        watch: Told where the time goes.
        rows: Asked for how many rows are edited in all, see `choose_arithmetic`.
    """

    def __init__(
        self,
        settings: RunSettings,
        networks: Models,
        watch: Stopwatch | None = None,
        rows: Callable[[], int] = lambda: 0,
    ) -> None:
        self._settings, self._networks = settings, networks
        self._watch = watch or Stopwatch()
        self.arithmetic = choose_arithmetic(settings.arithmetic, settings.workspace, networks, rows)
        synthesize = _synthesizer(networks.generator, self.arithmetic)
        self._synthesize = partial(in_lots, synthesize, lot=networks.lot)
        self._style_codes = dict[tuple[int, ...], Tensor]()
        self._methods: dict[str, Callable[[Batch], FoundEdit]] = {
            "global": self._global,
            "mapper": self._mapper,
            "optimize": self._optimize,
        }

    def batches(self, rows: Sequence[Row], batch_size: int) -> Iterator[Batch]:
        """Group rows that can be edited together; those without a sound latent get their status."""
        store = store_of(self._settings)
        # Once for both looks: a store is asked for it.
        committed = store.known()
        images = [row["image_id"] for row in rows]
        places = store.rows_of(images, committed)
        digests = dict(zip(places, store.digests_of(images, committed), strict=True))
        for row, place in zip(rows, places, strict=True):
            if place is None:
                row |= {
                    "status": "no_latent",
                    "error": f"image {row['image_id']!r}: no latent in {store.folder.url}; "
                    "align and invert it first, or import its latent for these networks",
                }
        known = [(row, place) for row, place in zip(rows, places, strict=True) if place is not None]
        if not known:
            return
        # Once for all edits of an image.
        stored = sorted({place for _, place in known})
        with self._watch.spend(READING):
            latents, errors = store.read_usable(stored, committed)
        wrong = {place: error for place, error in zip(stored, errors, strict=True) if error}
        usable = [place for place in stored if place not in wrong]
        sound = list[tuple[Row, int]]()
        for row, place in known:
            message = self.refusal(row)
            if place in wrong:
                message = f"image {row['image_id']!r}: {wrong[place]}, then give --retry-failed"
            if message:
                row |= {"status": "failed", "error": message}
            else:
                row["latent_sha256"] = digests[place]
                sound.append((row, place))
        for group in _grouped(sound, lambda pair: rows_together(pair[0])):
            for start in range(0, len(group), batch_size):
                own, at = zip(*group[start : start + batch_size], strict=True)
                found = latents.take(np.searchsorted(usable, at).tolist())
                yield Batch(own[0]["method"], [*own], at, found)

    def refusal(self, row: Row) -> str:
        """Return why a text of the row cannot be embedded; empty where it can.

        Rows beside it in a batch are well.
        """
        texts = (row["neutral_prompt"], row["target_prompt"])
        networks = (self._networks.clip, self._networks.judge)
        return next(filter(None, (_refusal(n, text) for n in networks for text in texts)), "")

    def edit(self, batch: Batch) -> list[Edited]:
        """Edit a batch: fill in its rows, and return the images of those that have one."""
        self._prepare(batch)
        began = time.monotonic()
        try:
            with self._watch.spend(EDITING):
                images = self.find(batch).at(self._alphas(batch))
                settle(self._networks.device)
        except NoChannelError as error:
            return _fail(batch.rows, "no_channel", error)
        except StyleClipError as error:
            return _fail(batch.rows, "failed", error)
        with self._watch.spend(SCORING):
            metrics, before = self.score(batch, images)
            settle(self._networks.device)
        # Lists at once: every look at a number makes an accelerator wait.
        values = metrics._asdict() | {"clip_cosine_inversion": before}
        scores = {name: numbers.tolist() for name, numbers in values.items()}
        finite = images.isfinite().all(dim=(1, 2, 3)).tolist()
        pictures = tensor_to_images(images)
        seconds = (time.monotonic() - began) / len(batch.rows)
        edited = []
        for index, row in enumerate(batch.rows):
            if not finite[index]:
                row |= {"status": "failed", "error": "the edited image holds NaN or infinity"}
                continue
            row |= {metric: _number(numbers[index]) for metric, numbers in scores.items()}
            row |= {"status": "ok", "seconds": seconds, "edit_key": self.address(row)}
            edited.append(Edited(row, pictures[index]))
        return edited

    def address(self, row: Row) -> str:
        """Return the key of an edit, from all that its image depends on."""
        content = {name: row[name] for name in _CONTENT} | {"arithmetic": str(self.arithmetic)}
        if row["method"] == "optimize":
            content["identity_fingerprint"] = row["identity_fingerprint"]
        return sha256(json.dumps(content, sort_keys=True).encode())

    def find(self, batch: Batch) -> FoundEdit:
        """Find the edit of a batch, whatever its strengths.

        Raises:
            StyleClipError: There is none, as where beta leaves no channel.
        """
        return self._methods[batch.method](batch)

    @torch.no_grad()
    def _global(self, batch: Batch) -> FoundEdit:
        row = batch.rows[0]
        # Also of rows that no channel is found for: other directions may have some.
        _name_asset(batch.rows, self._settings.directions_fingerprint)
        direction, fingerprint = _direction(
            self._settings.directions,
            self._settings.directions_fingerprint,
            self._networks,
            row["neutral_prompt"],
            row["target_prompt"],
            row["beta"],
            row["num_channels"],
        )
        _name_asset(batch.rows, fingerprint)
        s = self._s(batch)
        return FoundEdit(s, direction.to(s), self._synthesize)

    @torch.no_grad()
    def _mapper(self, batch: Batch) -> FoundEdit:
        row = batch.rows[0]
        url = mapper_url(row, self._settings, self._networks)
        mapper, fingerprint = _mapper(url, self._settings.mappers.get(url, ""), self._networks)
        _name_asset(batch.rows, fingerprint)
        in_style_space = isinstance(mapper, FullStyleSpaceMapper)
        latents = self._s(batch) if in_style_space else self._w_plus(batch)
        offset = in_lots(mapper.edit, latents, self._networks.lot) - latents
        return FoundEdit(latents, offset, self._render(in_style_space))

    def _prepare(self, batch: Batch) -> None:
        """Draw what optimizations may start from: it is no part of an edit's time."""
        if batch.method == "optimize" and starts_from_samples(batch.rows[0]):
            with self._watch.spend(LOADING):
                _random_faces(self._networks)

    def _optimize(self, batch: Batch) -> FoundEdit:
        networks, generator = self._networks, self._networks.generator
        options = json.loads(batch.rows[0]["options"] or "{}")
        in_style_space = options.pop("space", "w_plus") == "style"
        options.pop("start", None)
        optimize = optimize_style_codes if in_style_space else optimize_latents
        latents = self._s(batch) if in_style_space else self._w_plus(batch)
        start = None
        if starts_from_samples(batch.rows[0]):
            start = self._warm_start(batch, in_style_space)
        texts = torch.cat([_target(networks.clip, row["target_prompt"]) for row in batch.rows])
        config = OptimizeConfig(**options)
        identity = networks.identity if config.id_lambda > 0 else None
        found = optimize(
            generator,
            networks.clip,
            latents,
            texts,
            config,
            identity,
            start=start,
            batch_size=networks.optimization_lot,
        )
        return FoundEdit(latents, found - latents, self._render(in_style_space))

    @torch.no_grad()
    def _warm_start(self, batch: Batch, in_style_space: bool) -> Tensor:
        prompts = [row["target_prompt"] for row in batch.rows]
        offsets = torch.stack([warm_offset(self._networks, prompt) for prompt in prompts])
        w_plus = self._w_plus(batch) + offsets[:, None]
        return self._styles(w_plus) if in_style_space else w_plus

    def _render(self, in_style_space: bool) -> Callable[[Tensor], Tensor]:
        if in_style_space:
            return self._synthesize
        return lambda w_plus: self._synthesize(self._styles(w_plus))

    @torch.no_grad()
    def score(self, batch: Batch, images: Tensor) -> tuple[EditMetrics, Tensor]:
        """Score the edited images of a batch, as a file shows them.

        Returns:
            Their metrics, and the CLIP cosine of inversion and target prompt: before the edit.
        """
        judge, device = self._networks.judge, self._networks.device
        stored = {
            name: torch.from_numpy(getattr(batch.latents, name)).to(device)
            for name in Latents.__dataclass_fields__
        }
        for name in ("source_clip", "source_identity"):
            # Of imported latents there is no photograph to compare with.
            absent = ~stored[name].any(dim=1, keepdim=True)
            stored[name] = stored[name].masked_fill(absent, torch.nan)
        inversion = ImageEmbeddings(stored["inversion_clip"], stored["inversion_identity"])
        target = _text_embeddings(judge, tuple(row["target_prompt"] for row in batch.rows))
        shown = images.clamp(-1, 1)
        scores = edit_metrics(
            ImageEmbeddings(stored["source_clip"], stored["source_identity"]),
            inversion,
            ImageEmbeddings(judge.embed_images(shown), self._networks.identity.embed(shown)),
            _text_embeddings(judge, tuple(row["neutral_prompt"] for row in batch.rows)),
            target,
        )
        return scores, cosine_similarity(inversion.clip, target)

    @torch.no_grad()
    def _s(self, batch: Batch) -> Tensor:
        """Style codes, computed once for the same images in the same batch."""
        if batch.places not in self._style_codes:
            self._style_codes[batch.places] = self._styles(self._w_plus(batch))
        return self._style_codes[batch.places]

    def _styles(self, w_plus: Tensor) -> Tensor:
        return in_lots(self._networks.generator.w_plus_to_s, w_plus, self._networks.lot)

    def _w_plus(self, batch: Batch) -> Tensor:
        return torch.from_numpy(batch.latents.w_plus).to(self._networks.device)

    def _alphas(self, batch: Batch) -> Tensor:
        return torch.tensor([row["alpha"] for row in batch.rows], device=self._networks.device)


def mapper_url(row: Row, settings: RunSettings, networks: Models) -> str:
    """Return where the mapper of a row is: as the row says, or that of its prompt and options."""
    if row["mapper_uri"]:
        return str(row["mapper_uri"])
    config = MapperConfig(**json.loads(row["options"] or "{}"))
    return mapper_folder(Folder(settings.workspace), networks, row["target_prompt"], config).url


@lru_cache(maxsize=4096)
def _refusal(clip: ClipModel, text: str) -> str:
    try:
        clip.tokenize([text])
    except StyleClipError as error:
        return str(error)
    return ""


@lru_cache(maxsize=1024)
def _text_embeddings(judge: ClipModel, texts: tuple[str, ...]) -> Tensor:
    """Embed the texts of a batch; a batch of other texts might give other last bits."""
    return judge.embed_texts([*texts])


@lru_cache(maxsize=1024)
def _target(clip: ClipModel, text: str) -> Tensor:
    """Embed one text: the target of an edit does not depend on what else is edited."""
    return clip.embed_texts([text])


def starts_from_samples(row: Row) -> bool:
    """Return whether an optimization starts where random faces fit its prompt."""
    return bool(json.loads(row["options"] or "{}").get("start") == "samples")


@lru_cache(maxsize=1024)
def warm_offset(networks: Models, prompt: str) -> Tensor:
    """Return where optimizations for a prompt start that start from samples, [w_dim] from a face.

    The first one in a process draws random faces. These take less than a few optimizations, and
    are the same everywhere: no asset is kept of them.
    """
    return prompt_offset(_random_faces(networks), _target(networks.clip, prompt)[0])


@once
def _random_faces(networks: Models) -> RandomFaces:
    return draw_random_faces(networks.generator, networks.clip, lot=networks.lot)


@lru_cache(maxsize=4096)
def _direction(
    store: str,
    expected: str,
    networks: Models,
    neutral: str,
    target: str,
    beta: float | None,
    num_channels: int | None,
) -> tuple[Tensor, str]:
    """The style direction of a prompt, and the fingerprint of the asset behind it."""
    assets = _directions(store, expected)
    direction = style_direction(
        assets.channel_clip_directions,
        text_direction(networks.clip, neutral, target).cpu(),
        assets.channel_std,
        networks.generator.layout,
        beta,
        num_channels,
    )
    return direction.to(networks.device), assets.fingerprint


@lru_cache(maxsize=4)
def _directions(store: str, expected: str) -> Directions:
    directions = DirectionStore(Folder(store)).read()
    _require_asset(store, directions.fingerprint, expected)
    return directions


@lru_cache(maxsize=64)
def _mapper(url: str, expected: str, networks: Models) -> tuple[Any, str]:
    mapper, fingerprint = read_mapper(Folder(url), networks)
    _require_asset(url, fingerprint, expected)
    return mapper, fingerprint


def _require_asset(url: str, fingerprint: str, expected: str) -> None:
    """Refuse another asset than the run has, as one that was replaced since.

    Raises:
        RunError: It is another; no row is made.
    """
    if expected and fingerprint != expected:
        raise RunError(
            f"{url}: got an asset with the fingerprint {fingerprint}, expected {expected}, which "
            "the run has; give --update to compute again what depends on it, or restore it"
        )


def begin_row(unit: Row, settings: RunSettings, shard: int) -> Row:
    """Return a result row that has nothing but its manifest row and provenance."""
    row = dict.fromkeys(_COLUMNS) | unit
    row |= {name: value for name, value in settings.marks.items() if name in _COLUMNS}
    return row | {"shard": shard, "code_version": CODE_VERSION, "status": "failed"}


def rows_together(row: Row) -> Hashable:
    """Return what rows of one batch have in common."""
    shared: tuple[Hashable, ...] = (row["method"], row["options"])
    if row["method"] == "global":
        names = ("neutral_prompt", "target_prompt", "beta", "num_channels")
        shared += tuple(row[name] for name in names)
    if row["method"] == "mapper":
        shared += (row["mapper_uri"], row["target_prompt"])
    return shared


def _grouped(items: Iterable[Any], key: Callable[[Any], Hashable]) -> list[list[Any]]:
    """Groups in the order of their first items."""
    groups: dict[Hashable, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return [*groups.values()]


def _name_asset(rows: list[Row], fingerprint: str) -> None:
    for row in rows:
        row["asset_fingerprint"] = fingerprint


def _fail(rows: list[Row], status: str, error: Exception) -> list[Edited]:
    for row in rows:
        row |= {"status": status, "error": str(error)}
    return []


_CONTENT = (
    "image_id",
    "neutral_prompt",
    "target_prompt",
    "method",
    "alpha",
    "beta",
    "num_channels",
    "options",
    "latent_sha256",
    "generator_fingerprint",
    "encoder_fingerprint",
    "clip_fingerprint",
    "asset_fingerprint",
    "code_version",
)


def _provenance(row: Row) -> Row:
    """What an edited image says of itself."""
    names = [*_CONTENT, "pair_id", "mapper_uri", "identity_fingerprint", "edit_key"]
    return {name: row[name] for name in names if row[name] is not None}


def _number(value: float) -> float | None:
    """A metric; null where it has none."""
    return value if value == value else None


def _check_fingerprints(settings: RunSettings, networks: Models) -> None:
    """Refuse other weights than the run was begun with, which a worker might have."""
    for role, wanted in settings.fingerprints.items():
        if networks.fingerprint(role) != wanted:  # type: ignore[arg-type]
            raise StyleClipError(
                f"{role}: got weights {networks.fingerprint(role)}, "  # type: ignore[arg-type]
                f"expected {wanted}, which the run was begun with"
            )
