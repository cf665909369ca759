"""Times of the real tasks on a sample of the real inputs, in a temporary workspace."""

import json
import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

import pyarrow as pa
import torch
import torch.nn.functional as F

from manifests.schemas import EDITS, RESULTS
from styleclip_ops.optimize import OptimizeConfig
from styleclip_ops.relevance import CHECK_IMAGES, RelevanceMode, SlopeCheck, sum_channel_directions
from styleclip_ops.style_statistics import sample_style_codes, style_statistics
from tasks.directions import DirectionStore, RelevanceConfig
from tasks.edits import (
    MOST_WAITING,
    Edited,
    Editor,
    begin_row,
    edit_pairs_shard,
    starts_from_samples,
    warm_offset,
)
from tasks.frozen import freeze_manifest
from tasks.inversion import invert_faces_shard
from tasks.latents import FACE_UNITS, LatentStore, latent_folder
from tasks.mappers import LOG, MapperConfig, train_prompt_mapper
from tasks.models import Models, open_models
from tasks.outputs import FileOutput
from tasks.overlap import behind
from tasks.photos.alignment import AlignmentConfig, align_photos_shard, align_threads
from tasks.photos.faces import faces_ledger
from tasks.places import (
    CROPS,
    DIRECTION_STORES,
    FACES,
    IMAGES,
    INVERSIONS,
    LATENT_STORES,
    PAGE,
    REPORT,
)
from tasks.runs import ROLES_OF_A_RUN, RunSettings, open_run, run_folder, run_ledger
from tasks.stopwatch import Stopwatch
from tasks.store.folders import Folder, sha256
from tasks.store.ledger import Row, read_table

# Steps of two optimizations, whose difference gives the cost of a step.
_SHORT, _LONG = 1, 4
_STATISTICS = 1_024
_MOST_SAMPLED = 1_024
_SPANS, _SPAN = 4, 16
# Share of the channels whose slopes do not predict them, see docs/speed.md.
_CURVED = 0.05
# Share of CLIP's dimensions that its directions take, see there.
_MAIN = 0.5


@dataclass(frozen=True)
class Sampled:
    """What a sample of photographs or faces took.

    Attributes:
        seconds: An item.
        bytes: Written for an item.
        usable: Faces that an item gives.
    """

    seconds: float
    bytes: float
    usable: float


@dataclass(frozen=True)
class EditCost:
    """What edits of one kind take.

    Attributes:
        batch: Seconds of a batch, however small.
        row: Seconds of a row besides.
        bytes: Of an edited image.
        once: Seconds before the first edit, that later kinds share.
    """

    batch: float
    row: float
    bytes: float
    once: float = 0.0


@dataclass(frozen=True)
class ReportWork:
    """What a report has to do.

    Attributes:
        rows: That it tells of.
        faces: Of each prompt and method.
        edits: Whose pictures it shrinks, if it shows them all.
        sources: Faces whose pictures it shrinks.
    """

    rows: int
    faces: Sequence[int]
    edits: int
    sources: int


class Rehearsal:
    """A small workspace of its own, in which the real tasks do samples and are timed.

    Args:
        place: An empty directory of this machine.
        models: URL of the bundle.
        device: See `tasks.models.open_models`.
        seconds: That each stage may take, about.
    """

    def __init__(self, place: Path, models: str, device: str, seconds: float) -> None:
        self._models, self._device, self._seconds = models, device, seconds
        self.workspace = str(place / "workspace")

    @property
    def networks(self) -> Models:
        """The networks of the bundle."""
        return open_models(self._models, self._device)

    @property
    def latents(self) -> LatentStore:
        """The W+ store of the sample."""
        return LatentStore(latent_folder(Folder(self.workspace), self.networks))

    def load(self) -> float:
        """Load the networks, and return the seconds."""
        began, networks = time.monotonic(), self.networks
        networks.load(*(role for role in (*ROLES_OF_A_RUN, "judge") if networks.has(role)))
        return time.monotonic() - began

    def align(self, photos: pa.Table, config: AlignmentConfig) -> Sampled:
        """Align photographs, of the schema PHOTOS."""
        ledger = faces_ledger(self.workspace)

        def work(part: Sequence[int]) -> None:
            for shard in ledger.extend(photos.take([*part]), "source_uri", len(part)):
                align_photos_shard(
                    self.workspace, shard, config.crop_size, config.faces, config.minimum_face
                )

        seconds, done = self._measure(work, _spread(len(photos)), align_threads())
        rows = pa.concat_tables(ledger.results())
        usable = rows["status"].to_pylist().count("ok")
        return Sampled(seconds, (self._size(CROPS) + self._size(FACES)) / done, usable / done)

    def crops(self) -> list[tuple[str, str]]:
        """Return ids and crops of the faces that were aligned."""
        rows = pa.concat_tables([*faces_ledger(self.workspace).results()]).to_pylist()
        return [(row["image_id"], row["crop_uri"]) for row in rows if row["status"] == "ok"]

    def invert(self, faces: Sequence[tuple[str, str]], batch_size: int) -> Sampled:
        """Invert faces, given their ids and crops."""
        store = self.latents
        store.create(self.networks, 1)

        def work(part: Sequence[int]) -> None:
            chosen = [(*faces[index], None) for index in part]
            units = pa.Table.from_pylist(
                [dict(zip(FACE_UNITS.names, unit, strict=True)) for unit in chosen], FACE_UNITS
            )
            shards = store.ledger.extend(units, "image_id", store.shard_size)
            store.grow()
            for shard in shards:
                invert_faces_shard(self.workspace, self._models, self._device, shard, batch_size)

        seconds, done = self._measure(work, _spread(len(faces)), batch_size)
        size = self._size(INVERSIONS) + self._size(LATENT_STORES)
        return Sampled(seconds, size / done, 1.0)

    def relevance(self, config: RelevanceConfig, batch_size: int) -> float:
        """Return the seconds of a whole direction store."""
        generator, clip = self.networks.generator, self.networks.clip
        began = time.monotonic()
        std = style_statistics(generator, _STATISTICS, seed=config.seed).std
        statistics = (time.monotonic() - began) / _STATISTICS * config.num_statistics
        (code,) = sample_style_codes(generator, 1, seed=config.seed)
        channels = generator.layout.editable_channels
        starts = [i * max(len(channels) - _SPAN, 0) // (_SPANS - 1) for i in range(_SPANS)]
        spans = [channels[start : start + _SPAN] for start in starts]
        mode: RelevanceMode = "published" if config.mode == "published" else "exact"
        measure = partial(
            sum_channel_directions,
            *(generator, clip, code, std),
            step=config.step,
            channel_mean=code[0] if mode == "published" else None,
            batch_size=batch_size,
        )
        began = time.monotonic()
        for span in spans:
            measure(channels=span, mode=mode)
        rendered = (time.monotonic() - began) / sum(map(len, spans)) * len(channels)
        if config.mode != "fast":
            return statistics + rendered * config.num_images
        # An image after those that are rendered wholly, with slopes that predict every channel.
        began = time.monotonic()
        basis = torch.eye(clip.embedding_dim)[: math.ceil(_MAIN * clip.embedding_dim)]
        check = SlopeCheck(torch.ones(len(channels)), basis, 1.0)
        measure(channels=channels, mode="fast", check=check)
        slopes = time.monotonic() - began
        whole = min(config.num_images, CHECK_IMAGES)
        others = config.num_images - whole
        passes = whole / _MAIN + others
        return statistics + slopes * passes + rendered * (whole + _CURVED * others)

    def directions(self) -> DirectionStore:
        """Return a direction store of random numbers, which take as long to apply."""
        networks, config = self.networks, RelevanceConfig(1, 2)
        store = DirectionStore(Folder(self.workspace) / DIRECTION_STORES)
        store.create(networks, config, 1)
        channels = len(networks.generator.layout.editable_channels)
        for shard in store.ledger.pending():
            numbers = torch.randn(channels, networks.clip.embedding_dim)
            store.commit(shard, F.normalize(numbers, dim=1))
        return store

    def train(self, prompt: str, config: MapperConfig) -> tuple[str, float, int]:
        """Train a mapper for a few steps; return its URL, and seconds and bytes of a whole one."""
        few = replace(config, steps=min(_LONG, config.steps))
        url = train_prompt_mapper(self.workspace, self._models, self._device, prompt, few)
        taken = read_table(Folder(url).read(LOG))["seconds"].to_pylist()
        # The first one also warms up.
        later = taken[1:] or taken
        return url, sum(later) / len(later) * config.steps, _size(Path(url))

    def edit(
        self, row: Row, settings: RunSettings, names: Sequence[str], batch_size: int
    ) -> EditCost:
        """Edit faces as a row of a manifest says, in batches of one and of full size."""
        many = batch_size
        cost = partial(self._edits, row, settings, names)
        if row["method"] == "optimize":
            options = json.loads(row["options"] or "{}")
            steps, began = options.get("steps", OptimizeConfig().steps), time.monotonic()
            if starts_from_samples(row):
                warm_offset(self.networks, row["target_prompt"])
            once = time.monotonic() - began
            short, long = (cost(many, _steps(row, count)) for count in (_SHORT, _LONG))
            step = max(long[0] - short[0], 0.0) / (_LONG - _SHORT)
            return EditCost(0.0, (short[0] + (steps - _SHORT) * step) / many, long[1], once)
        cost(many)
        full, size = cost(many)
        single, _ = cost(1) if many > 1 else (full, size)
        each = max(full - single, 0.0) / max(many - 1, 1)
        return EditCost(max(single - each, 0.0), each, size)

    def evaluate(
        self,
        examples: Sequence[Row],
        rows: Sequence[Row],
        work: ReportWork,
        settings: RunSettings,
        names: Sequence[str],
    ) -> tuple[float, float]:
        """Return the seconds of a report, and its bytes.

        One row of each kind is edited, and what it gave stands for the others of its kind.

        Args:
            examples: A row of each kind.
            rows: A sample of the manifest, of these kinds.
            work: What the report of the whole run has to do.
            settings: What they are made with.
            names: Faces with latents.
        """
        began = time.monotonic()
        # It imports what draws, which nothing else here needs.
        from tasks.report.judgement import MOST_FACES, MOST_PROMPTS
        from tasks.report.pictures import THUMBNAILS
        from tasks.report.run_report import GALLERY_LIMIT, JUDGED, PICTURES, ROWS, write_report

        seconds = time.monotonic() - began
        # Assets elsewhere stay there, since no workspace was moved here.
        here = replace(settings, workspace=self.workspace)
        edited = self._edit_once(examples, here, names)
        faces = {
            name: place for place, name in enumerate(dict.fromkeys(r["image_id"] for r in rows))
        }
        # Outside of a workspace, so that inversions are found in that of the latents.
        run, results = Folder(f"{self.workspace}-report"), list[Row]()
        own = settings.latents.startswith(f"{Folder(self.workspace).url}/")
        open_run(run, here if own else settings)
        for number, row in enumerate(rows):
            made = edited[kind_of(row)]
            face = names[faces[row["image_id"]] % len(names)]
            result = made | row | {"image_id": face, "pair_id": f"{number}"}
            if made["status"] == "ok":
                # With other bytes behind its end: no picture is looked at twice.
                content = Path(made["output_uri"]).read_bytes() + f"{number}".encode()
                (run / IMAGES).write(f"{number}", content)
                result["output_uri"] = (run / IMAGES).url_of(f"{number}")
                result["output_sha256"] = sha256(content)
            results.append(result)
        table, ledger = pa.Table.from_pylist(results, RESULTS), run_ledger(run)
        ledger.plan_shard(0, table.select(EDITS.names))
        ledger.commit(0, table)
        ticks, began = dict[str, list[tuple[float, int]]](), time.monotonic()

        def note(part: str, done: int, _all: int) -> None:
            ticks.setdefault(part, []).append((time.monotonic(), done))

        write_report(run.url, on_progress=note, device=self._device)
        seconds += time.monotonic() - began
        wanted = {
            JUDGED: sum(min(faces, MOST_FACES) for faces in work.faces[:MOST_PROMPTS]),
            # A face has two pictures, its crop and its inversion.
            PICTURES: min(work.edits, GALLERY_LIMIT) + 2 * min(work.sources, GALLERY_LIMIT),
        }
        for part, times in ticks.items():
            (first, done), (last, all_done) = times[0], times[-1]
            if all_done > done:
                seconds += (wanted[part] - all_done) * (last - first) / (all_done - done)
        report = Path((run / REPORT).url)
        small, page, table = (_size(report / name) for name in (THUMBNAILS, PAGE, ROWS))
        drawn = ticks[PICTURES][-1][1] if PICTURES in ticks else 0
        more = work.rows / max(len(rows), 1) - 1
        # The page has a line for each row that it shows.
        size = _size(report) + page * min(more, GALLERY_LIMIT / max(len(rows), 1)) + table * more
        return seconds, size + (small / drawn * (wanted[PICTURES] - drawn) if drawn else 0)

    def _edit_once(
        self, rows: Sequence[Row], settings: RunSettings, names: Sequence[str]
    ) -> dict[Hashable, Row]:
        """Edit a face as each of some rows says; return the results by their kind."""
        run, units = run_folder(self.workspace, "sample"), list[Row]()
        for number, row in enumerate(rows):
            short = {"options": _steps(row, _SHORT)} if row["method"] == "optimize" else {}
            own = {"image_id": names[number % len(names)], "pair_id": f"{number}"}
            units.append(row | short | own)
        open_run(run, settings)
        freeze_manifest(run, [pa.RecordBatch.from_pylist(units, EDITS)], len(units))
        edit_pairs_shard(run.url, self._device, 0)
        made = {row["pair_id"]: row for row in run_ledger(run).rows(0).to_pylist()}
        return {kind_of(row): made[f"{number}"] for number, row in enumerate(rows)}

    def _edits(
        self,
        row: Row,
        settings: RunSettings,
        names: Sequence[str],
        count: int,
        options: str | None = None,
    ) -> tuple[float, float]:
        """Seconds of a batch with all that goes with it, and bytes of an image."""
        given = row if options is None else row | {"options": options}
        editor = Editor(settings, self.networks)
        output = FileOutput(Folder(self.workspace) / "edits", settings.image_format, Stopwatch())
        sizes, batches, began = list[int](), 0, time.monotonic()
        with behind(MOST_WAITING) as later:
            # At least two, since the first one may find nothing in the caches.
            while batches < 2 or time.monotonic() - began < self._seconds / 4:
                units = [
                    given | {"image_id": names[i % len(names)], "pair_id": f"{batches}-{i}"}
                    for i in range(count)
                ]
                rows = [begin_row(unit, settings, 0) for unit in units]
                for batch in editor.batches(rows, count):
                    for edited in editor.edit(batch):
                        later(partial(_write, edited, output, sizes))
                batches += 1
        seconds = (time.monotonic() - began) / batches
        return seconds, sum(sizes) / max(len(sizes), 1)

    def _measure(
        self, work: Callable[[Sequence[int]], None], items: Sequence[int], first: int
    ) -> tuple[float, int]:
        """Seconds an item, and how many were done: in growing parts, until the time is over."""
        began, start, size, spent, counted = time.monotonic(), 0, first, 0.0, 0
        while start < len(items) and (not start or time.monotonic() - began < self._seconds):
            part, at = items[start : start + size], time.monotonic()
            work(part)
            # The first part also loads what the others find loaded.
            if start or len(part) == len(items):
                spent, counted = spent + time.monotonic() - at, counted + len(part)
            else:
                warm_up = (time.monotonic() - at) / len(part)
            start, size = start + len(part), 2 * size
        return (spent / counted if counted else warm_up), start

    def _size(self, name: str) -> int:
        return _size(Path(self.workspace, name))


def _size(place: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [place, *place.rglob("*")]
    return sum(path.stat().st_size for path in files if path.is_file())


def kind_of(row: Row) -> Hashable:
    """What rows have in common that take as long."""
    return row["method"], row["options"]


def _steps(row: Row, count: int) -> str:
    """Options of an optimization with another number of steps."""
    return json.dumps(json.loads(row["options"] or "{}") | {"steps": count})


def _write(edited: Edited, output: FileOutput, sizes: list[int]) -> None:
    edited.write(output)
    sizes.append(Path(edited.row["output_uri"]).stat().st_size)


def _spread(count: int) -> list[int]:
    """Some numbers below `count`, the same each time."""
    return Random(0).sample(range(count), min(count, _MOST_SAMPLED))  # noqa: S311
