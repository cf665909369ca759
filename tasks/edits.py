"""Edits: rows of a manifest -> edited images, one result row each."""

import json
import time
import uuid
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from manifests.schemas import RESULTS
from styleclip_ops.direction import style_direction, text_direction
from styleclip_ops.errors import NoChannelError, StyleClipError
from styleclip_ops.mapper import FullStyleSpaceMapper
from styleclip_ops.metrics import (
    EditMetrics,
    ImageEmbeddings,
    cosine_similarity,
    edit_metrics,
)
from styleclip_ops.optimize import OptimizeConfig, optimize_latents, optimize_style_codes
from styleclip_ops.pictures import tensor_to_images
from tasks.directions import DirectionStore
from tasks.latents import Latents
from tasks.mappers import MapperConfig, mapper_folder, read_mapper, slug
from tasks.models import Models, describe_device, open_models, settle
from tasks.outputs import Output, open_output
from tasks.provenance import CODE_VERSION
from tasks.row_logs import log_failures
from tasks.runs import RunSettings, is_stale, read_settings, run_ledger, store_of
from tasks.selection import Selection, rows_to_redo
from tasks.stopwatch import EDITING, LOADING, READING, SCORING, WRITING, Stopwatch
from tasks.storage import Folder, sha256

Row = dict[str, Any]


def edit_pairs_shard(
    run: str,
    device: str,
    shard: int,
    retry: Sequence[str] = (),
    again: Selection | None = None,
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

    Returns:
        Rows by status that were made.
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
    kept = {row["pair_id"]: row for row in done if row["pair_id"] not in redone}
    units = ledger.units(shard).to_pylist()
    rows = [kept.get(unit["pair_id"]) or _begun(unit, settings, shard) for unit in units]
    new = [row for row in rows if row["pair_id"] not in kept]
    if before and not new:
        return {}
    with watch.spend(LOADING):
        networks.load("generator", "judge", "identity")
    editor = Editor(settings, networks, watch)
    output = open_output(folder, settings.output, settings.image_format, shard, watch)
    for batch in editor.batches(new, settings.batch_size):
        editor.edit(batch, output)
    with watch.spend(WRITING):
        output.close()
    facts: Row = {"statuses": _counts(rows), "attempt": uuid.uuid4().hex}
    facts |= watch.facts() | {"made": datetime.now(UTC).isoformat()}
    # With these `verify` makes the same batches again; of the rows that were kept, an earlier
    # commit says it.
    facts |= {"device": describe_device(networks.device), "batch_size": settings.batch_size}
    facts |= {"edited": [row["pair_id"] for row in new]} if before else {}
    commit = ledger.commit(shard, pa.Table.from_pylist(rows, RESULTS), facts, before)
    if commit.facts.get("attempt") != facts["attempt"]:
        output.discard()
    log_failures(folder.url, shard, "pair_id", new)
    return _counts(new)


@dataclass(frozen=True)
class Batch:
    """Rows of one method that are edited together, with what is stored of their images.

    Attributes:
        method: Of all rows.
        rows: N of them.
        latents: Of N images.
        lost: Rows that would be in the batch if their latents held numbers.
    """

    method: str
    rows: list[Row]
    latents: Latents
    lost: int


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


class Editor:
    """Edit rows with the networks and assets of a run.

    Args:
        settings: Of the run.
        networks: Its networks.
        watch: Told where the time goes.
    """

    def __init__(
        self, settings: RunSettings, networks: Models, watch: Stopwatch | None = None
    ) -> None:
        self._settings, self._networks = settings, networks
        self._watch = watch or Stopwatch()
        self._methods: dict[str, Callable[[Batch], FoundEdit]] = {
            "global": self._global,
            "mapper": self._mapper,
            "optimize": self._optimize,
        }

    def batches(self, rows: Sequence[Row], batch_size: int) -> Iterator[Batch]:
        """Group rows that can be edited together; those without a sound latent get their status."""
        store = store_of(self._settings)
        places = store.rows_of([row["image_id"] for row in rows])
        for row, place in zip(rows, places, strict=True):
            if place is None:
                row |= {
                    "status": "no_latent",
                    "error": f"image {row['image_id']!r}: no latent in {store.folder.url}; "
                    "align and invert it first",
                }
        known = [(row, place) for row, place in zip(rows, places, strict=True) if place is not None]
        for group in _grouped(known, lambda pair: _together(pair[0])):
            for start in range(0, len(group), batch_size):
                chunk = group[start : start + batch_size]
                part = [row for row, _ in chunk]
                with self._watch.spend(READING):
                    latents, errors = store.read_usable([place for _, place in chunk])
                for row, error in zip(part, errors, strict=True):
                    if error:
                        message = f"image {row['image_id']!r}: {error}, then give --retry-failed"
                        row |= {"status": "failed", "error": message}
                usable = [row for row, error in zip(part, errors, strict=True) if not error]
                if usable:
                    yield Batch(part[0]["method"], usable, latents, len(part) - len(usable))

    def edit(self, batch: Batch, output: Output) -> None:
        """Edit a batch: write its images, and fill in its rows."""
        began = time.monotonic()
        try:
            with self._watch.spend(EDITING):
                images = self.find(batch).at(self._alphas(batch))
                settle(self._networks.device)
        except NoChannelError as error:
            _fail(batch.rows, "no_channel", error)
            return
        except StyleClipError as error:
            _fail(batch.rows, "failed", error)
            return
        with self._watch.spend(SCORING):
            metrics, before = self.score(batch, images)
            settle(self._networks.device)
        scores = metrics._asdict() | {"clip_cosine_inversion": before}
        pictures = tensor_to_images(images)
        seconds = (time.monotonic() - began) / len(batch.rows)
        for index, row in enumerate(batch.rows):
            row["edit_key"] = _edit_key(row)
            if not bool(images[index].isfinite().all()):
                row |= {"status": "failed", "error": "the edited image holds NaN or infinity"}
                continue
            name = f"{slug(row['target_prompt'])}-{row['method']}-{row['pair_id']}"
            uri, digest = output.write(row["image_id"], name, pictures[index], _provenance(row))
            row |= {"status": "ok", "output_uri": uri, "output_sha256": digest}
            row |= {metric: _number(values[index]) for metric, values in scores.items()}
            row["seconds"] = seconds

    def find(self, batch: Batch) -> FoundEdit:
        """Find the edit of a batch, whatever its strengths.

        Raises:
            StyleClipError: There is none, as where beta leaves no channel.
        """
        return self._methods[batch.method](batch)

    @torch.no_grad()
    def _global(self, batch: Batch) -> FoundEdit:
        generator, row = self._networks.generator, batch.rows[0]
        direction, fingerprint = _direction(
            self._settings.directions,
            self._networks,
            row["neutral_prompt"],
            row["target_prompt"],
            row["beta"],
            row["num_channels"],
        )
        _name_asset(batch.rows, fingerprint)
        s = generator.w_plus_to_s(self._w_plus(batch))
        return FoundEdit(s, direction.to(s), generator.synthesize)

    @torch.no_grad()
    def _mapper(self, batch: Batch) -> FoundEdit:
        generator, row = self._networks.generator, batch.rows[0]
        mapper, fingerprint = _mapper(
            mapper_url(row, self._settings, self._networks), self._networks
        )
        _name_asset(batch.rows, fingerprint)
        w_plus = self._w_plus(batch)
        in_style_space = isinstance(mapper, FullStyleSpaceMapper)
        latents = generator.w_plus_to_s(w_plus) if in_style_space else w_plus
        render = generator.synthesize if in_style_space else generator
        return FoundEdit(latents, mapper.edit(latents) - latents, render)

    def _optimize(self, batch: Batch) -> FoundEdit:
        networks, generator = self._networks, self._networks.generator
        options = json.loads(batch.rows[0]["options"] or "{}")
        in_style_space = options.pop("space", "w_plus") == "style"
        optimize = optimize_style_codes if in_style_space else optimize_latents
        w_plus = self._w_plus(batch)
        latents = generator.w_plus_to_s(w_plus) if in_style_space else w_plus
        texts = networks.clip.embed_texts([row["target_prompt"] for row in batch.rows])
        config = OptimizeConfig(**options)
        identity = networks.identity if config.id_lambda > 0 else None
        found = optimize(generator, networks.clip, latents, texts, config, identity)
        render = generator.synthesize if in_style_space else generator
        return FoundEdit(latents, found - latents, render)

    @torch.no_grad()
    def score(self, batch: Batch, images: Tensor) -> tuple[EditMetrics, Tensor]:
        """Score the edited images of a batch.

        Returns:
            Their metrics, and the CLIP cosine of inversion and target prompt: before the edit.
        """
        judge, device = self._networks.judge, self._networks.device
        stored = {
            name: torch.from_numpy(getattr(batch.latents, name)).to(device)
            for name in Latents.__dataclass_fields__
        }
        inversion = ImageEmbeddings(stored["inversion_clip"], stored["inversion_identity"])
        target = judge.embed_texts([row["target_prompt"] for row in batch.rows])
        scores = edit_metrics(
            ImageEmbeddings(stored["source_clip"], stored["source_identity"]),
            inversion,
            ImageEmbeddings(judge.embed_images(images), self._networks.identity.embed(images)),
            judge.embed_texts([row["neutral_prompt"] for row in batch.rows]),
            target,
        )
        return scores, cosine_similarity(inversion.clip, target)

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
def _direction(
    store: str,
    networks: Models,
    neutral: str,
    target: str,
    beta: float | None,
    num_channels: int | None,
) -> tuple[Tensor, str]:
    """The style direction of a prompt, and the fingerprint of the asset behind it."""
    assets = _directions(store)
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
def _directions(store: str) -> Any:
    return DirectionStore(Folder(store)).read()


@lru_cache(maxsize=64)
def _mapper(url: str, networks: Models) -> tuple[Any, str]:
    return read_mapper(Folder(url), networks)


def _begun(unit: Row, settings: RunSettings, shard: int) -> Row:
    """A result row that has nothing but its manifest row and provenance."""
    row = dict.fromkeys(RESULTS.names) | unit
    marks = {f"{role}_fingerprint": value for role, value in settings.fingerprints.items()}
    row |= {name: value for name, value in marks.items() if name in RESULTS.names}
    return row | {"shard": shard, "code_version": CODE_VERSION, "status": "failed"}


def _together(row: Row) -> Hashable:
    """What rows of one batch have in common."""
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


def _fail(rows: list[Row], status: str, error: Exception) -> None:
    for row in rows:
        row |= {"status": status, "error": str(error)}


_CONTENT = (
    "image_id",
    "neutral_prompt",
    "target_prompt",
    "method",
    "alpha",
    "beta",
    "num_channels",
    "options",
    "generator_fingerprint",
    "encoder_fingerprint",
    "clip_fingerprint",
    "asset_fingerprint",
    "code_version",
)


def _edit_key(row: Row) -> str:
    """Address an edit by all that its image depends on."""
    content = {name: row[name] for name in _CONTENT}
    return sha256(json.dumps(content, sort_keys=True).encode())


def _provenance(row: Row) -> Row:
    """What an edited image says of itself."""
    names = [*_CONTENT, "pair_id", "mapper_uri", "identity_fingerprint", "edit_key"]
    return {name: row[name] for name in names if row[name] is not None}


def _number(value: Tensor) -> float | None:
    """A metric as a number; null where it has none."""
    number = float(value)
    return number if number == number else None


def _check_fingerprints(settings: RunSettings, networks: Models) -> None:
    """Refuse other weights than the run was begun with, which a worker might have."""
    for role, wanted in settings.fingerprints.items():
        if role != "judge" and networks.fingerprint(role) != wanted:  # type: ignore[arg-type]
            raise StyleClipError(
                f"{role}: got weights {networks.fingerprint(role)}, "  # type: ignore[arg-type]
                f"expected {wanted}, which the run was begun with"
            )


def _counts(rows: Iterable[Row]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    return counts
