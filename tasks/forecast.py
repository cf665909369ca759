"""What a run will take, before it: sizes from its inputs, times from a sample of the real work.

Nothing is written but to a temporary folder of this machine. Times to write to another store are
not in the forecast: edits are written behind the networks' work.
"""

import uuid
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.building import build_edits, regroup
from manifests.instructions import Instruction
from tasks.arithmetic import choose_arithmetic
from tasks.directions import (
    COMBINE,
    RELEVANCE_BATCH,
    DirectionStore,
    RelevanceConfig,
    choose_relevance,
    direction_folder,
    plan_blocks,
)
from tasks.edits import mapper_url, rows_together
from tasks.frozen import (
    are_among,
    manifest_card,
    require_same_manifest,
    row_hashes,
    sort_hashes,
)
from tasks.inversion import INVERT_SHARD
from tasks.latents import LatentStore, latent_folder
from tasks.mappers import MapperConfig, mapper_fingerprint, mapper_folder
from tasks.models import Models, open_models
from tasks.photos.alignment import AlignmentConfig, require_same_alignment
from tasks.photos.faces import faces_ledger, faces_table
from tasks.photos.listing import list_photos
from tasks.places import PAGE, REPORT
from tasks.rehearsal import Rehearsal, ReportWork, kind_of
from tasks.runs import (
    RunSettings,
    is_stale,
    relevance_of,
    run_folder,
    run_ledger,
    store_of,
)
from tasks.store.folders import Folder
from tasks.store.ledger import Row
from tasks.store.redaction import unsigned
from tasks.surveys import Survey, require_doable_edits

# Of a result row in its part, about.
_ROW_BYTES = 400
# Rows whose batches are counted; the others are taken to be like them.
_MOST_GROUPED = 65_536
# Rows that a report is rehearsed with.
_MOST_REPORTED = 256
_GROUP = ["target_prompt", "method", "alpha"]


@dataclass(frozen=True)
class StageForecast:
    """What a stage will take.

    Attributes:
        stage: Its name.
        units: Photographs, faces, sample images, mappers or rows that it is about.
        done: Of these, already committed.
        shards: That are to do.
        seconds: For what is to do.
        bytes: That it will write.
    """

    stage: str
    units: int
    done: int
    shards: int
    seconds: float
    bytes: int = 0


@dataclass
class _Kind:
    """Rows of one method and its options that are to do, and the batches that they come in."""

    row: Row
    rows: float = 0.0
    batches: float = 0.0


@dataclass
class _Work:
    """What the rows of a manifest ask for.

    Attributes:
        rows: All of them.
        done: Those that are.
        hashes: Of the rows.
        kinds: Of the rows that are to do.
        groups: Rows by prompt, method and strength.
        drawn: Some rows, drawn evenly.
    """

    rows: int = 0
    done: int = 0
    hashes: list[NDArray[np.uint64]] = field(default_factory=list)
    kinds: dict[Hashable, _Kind] = field(default_factory=dict)
    groups: Counter[tuple[str, str, float]] = field(default_factory=Counter)
    drawn: list[Row] = field(default_factory=list)
    _lots: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    _random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def draw(self, table: pa.Table) -> None:
        """Draw anew with further rows: those with the smallest lots, in their order."""
        lots = np.concatenate([self._lots, self._random.random(len(table))])
        chosen = np.sort(np.argsort(lots)[:_MOST_REPORTED])
        old, self._lots = len(self.drawn), lots[chosen]
        kept = [self.drawn[place] for place in chosen[chosen < old]]
        self.drawn = kept + table.take(chosen[chosen >= old] - old).to_pylist()

    def report(self, has_one: bool) -> ReportWork:
        """What a report has to do: for the rows that are to come, where there is one already."""
        faces = dict[tuple[str, str], int]()
        for (prompt, method, _), rows in self.groups.items():
            faces[prompt, method] = max(faces.get((prompt, method), 0), rows)
        new = self.rows - self.done if has_one else self.rows
        sources = 0 if has_one else max(faces.values(), default=0)
        return ReportWork(self.rows, [*faces.values()], new, sources)


class Forecast:
    """Estimate the stages of a run, each after those before it.

    Args:
        workspace: URL of the workspace.
        models: URL of the bundle.
        device: See `tasks.models.open_models`.
        rehearsal: Times samples.
    """

    def __init__(self, workspace: str, models: str, device: str, rehearsal: Rehearsal) -> None:
        self._workspace, self._models, self._device = workspace, models, device
        self._rehearsal = rehearsal
        # Of the report, which follows from the edits.
        self._report: Callable[[], tuple[float, float]] | None = None

    def load(self) -> StageForecast:
        """Estimate the loading of the networks; they are loaded then."""
        return StageForecast("networks", 0, 0, 0, self._rehearsal.load())

    def align(
        self, photos: str, config: AlignmentConfig, shard_size: int
    ) -> tuple[StageForecast, list[str]]:
        """Estimate the alignment of photographs, and how the faces that it adds may be named.

        Raises:
            ConfigError: The workspace has faces of other parameters.
        """
        require_same_alignment(self._workspace, config)
        ledger = faces_ledger(self._workspace)
        new = list_photos(photos, self._workspace).replace_schema_metadata()
        pending, known, waiting = set(ledger.pending()), set[str](), [new.slice(0, 0)]
        for shard in ledger.plans():
            units = ledger.units(shard).select(new.column_names).cast(new.schema)
            known.update(map(unsigned, units["source_uri"].to_pylist()))
            waiting += [units] if shard in pending else []
        fresh = [unsigned(uri) not in known for uri in new["source_uri"].to_pylist()]
        new = new.filter(pa.array(fresh, pa.bool_()))
        to_do = pa.concat_tables([*waiting, new]).combine_chunks()
        total, count = len(known) + len(new), len(to_do)
        if not count:
            return StageForecast("align", total, total, 0, 0.0), []
        one = self._rehearsal.align(to_do, config)
        shards, size = len(pending) - (-len(new) // shard_size), int(one.bytes * count)
        stage = StageForecast("align", total, total - count, shards, one.seconds * count, size)
        # Names that no photograph has.
        return stage, [uuid.uuid4().hex for _ in range(round(one.usable * count))]

    def invert(self, more: int, batch_size: int) -> StageForecast:
        """Estimate the inversion of the faces without a latent, of which `more` are to come."""
        faces = faces_table(self._workspace).to_pylist()
        crops = [(row["image_id"], row["crop_uri"]) for row in faces if row["status"] == "ok"]
        store = self._latents
        planned = {
            name
            for shard in store.ledger.committed()
            for name in store.ledger.units(shard)["image_id"].to_pylist()
        }
        sample = [crop for crop in crops if crop[0] not in planned]
        total, count = len(crops) + more, len(sample) + more
        sample += self._rehearsal.crops() if more else []
        if not sample:
            return StageForecast("invert", total, total - count, 0, 0.0)
        one = self._rehearsal.invert(sample, batch_size)
        shards, size = -(-count // INVERT_SHARD), int(one.bytes * count)
        return StageForecast("invert", total, total - count, shards, one.seconds * count, size)

    def edit(
        self,
        run: str,
        survey: Survey,
        rows: Iterable[pa.RecordBatch],
        settings: RunSettings,
        relevance: RelevanceConfig | None,
        batch_size: int,
        shard_size: int,
        retry: Sequence[str] = (),
        update: bool = False,
    ) -> Iterator[StageForecast]:
        """Estimate the edits of a manifest, and the directions and mappers that they need.

        Args:
            run: Name of the run, or its URL.
            survey: What the rows need.
            rows: The rows, which may be read several times.
            settings: What they are made with.
            relevance: How directions are measured; as those that are there were, where None.
            batch_size: Edits that are read and scored together.
            shard_size: Rows of a shard.
            retry: Statuses of rows to make again.
            update: Whether rows that depend on something else than the run has now are made again.

        Raises:
            ManifestError, ConfigError, RunError: See `tasks.surveys.require_doable_edits`.
        """
        directions, mappers, config = None, dict[str, str](), None
        folder, root = run_folder(self._workspace, run), Folder(self._workspace)
        if "global" in survey.methods:
            begun = relevance_of(folder, self._workspace, self._networks)
            config = choose_relevance(root, self._networks, relevance, begun)
        require_doable_edits(folder, survey, rows, settings, self._networks, config, update)
        if config:
            stage, directions = self._relevance(config)
            yield stage
        if survey.mappers:
            stage, mappers = self._mappers(survey.mappers)
            yield stage
        # Timed as single files, which tars do not differ from much.
        settings = replace(settings, output="files")
        settings = settings.with_assets(directions, [*survey.mapper_uris, *mappers.values()])
        stays = partial(_stays, settings, retry, update)
        work = _count_work(folder, stays, rows, shard_size, batch_size)
        if not update and not survey.card:
            require_same_manifest(folder, manifest_card(work.hashes), rows)
        # Measured in the sample's workspace, since nothing may be written in the run's.
        measured = choose_arithmetic(
            settings.arithmetic, self._rehearsal.workspace, self._networks, lambda: work.rows
        )
        settings = replace(settings, arithmetic=str(measured))
        shards = -(-(work.rows - work.done) // shard_size)
        seconds, size = 0.0, 0.0
        settings, names = self._with_latents(settings)
        if directions is None and "global" in survey.methods:
            settings = replace(settings, directions=self._rehearsal.directions().folder.url)

        def doable(row: Row) -> Row:
            if row["method"] == "global" and directions is None:
                row = row | {"beta": None, "num_channels": row["num_channels"] or 50}
            if row["method"] == "mapper":
                url = mapper_url(row, settings, self._networks)
                row = row | {"mapper_uri": mappers.get(url, url)}
            return row

        for kind in work.kinds.values() if names else []:
            cost = self._rehearsal.edit(doable(kind.row), settings, names, batch_size)
            seconds += cost.once + kind.batches * cost.batch + kind.rows * cost.row
            size += kind.rows * (cost.bytes + _ROW_BYTES)
        if names:
            drawn = work.drawn
            examples = [doable(row) for row in {kind_of(row): row for row in drawn}.values()]
            wanted = work.report((folder / REPORT).exists(PAGE))
            self._report = partial(
                self._rehearsal.evaluate, examples, drawn, wanted, settings, names
            )
        yield StageForecast("edit", work.rows, work.done, shards, seconds, int(size))

    def evaluate(self) -> StageForecast:
        """Estimate the report, after the edits."""
        seconds, size = self._report() if self._report else (0.0, 0.0)
        return StageForecast("evaluate", 0, 0, 0, seconds, int(size))

    @property
    def _networks(self) -> Models:
        return open_models(self._models, self._device)

    @property
    def _latents(self) -> LatentStore:
        return LatentStore(latent_folder(Folder(self._workspace), self._networks))

    def _relevance(self, config: RelevanceConfig) -> tuple[StageForecast, DirectionStore | None]:
        networks, total = self._networks, config.num_images
        store = DirectionStore(direction_folder(Folder(self._workspace), networks, config))
        if config.mode == "imported":
            store.require_import()
        pending = map(store.unit, store.ledger.pending()) if store.exists else plan_blocks(config)
        units = [*pending]
        if not units:
            return StageForecast("relevance", total, total, 0, 0.0), store
        left = sum(unit["count"] for unit in units if unit["work"] != COMBINE)
        seconds = self._rehearsal.relevance(config, RELEVANCE_BATCH) * left / total
        numbers = len(networks.generator.layout.editable_channels) * networks.clip.embedding_dim
        size = 4 * numbers * len(units)
        return StageForecast("relevance", total, total - left, len(units), seconds, size), None

    def _mappers(
        self, wanted: Sequence[tuple[str, MapperConfig]]
    ) -> tuple[StageForecast, dict[str, str]]:
        """Estimate trainings; also by the URL of each mapper, one to time its edits with."""
        root, found, seconds = Folder(self._workspace), dict[str, str](), 0.0
        timed = dict[MapperConfig, tuple[str, float, int]]()
        missing, size = 0, 0
        for prompt, config in wanted:
            url = mapper_folder(root, self._networks, prompt, config).url
            found[url] = url
            if not mapper_fingerprint(url):
                missing += 1
                if config not in timed:
                    timed[config] = self._rehearsal.train(prompt, config)
                found[url] = timed[config][0]
                seconds, size = seconds + timed[config][1], size + timed[config][2]
        done = len(wanted) - missing
        return StageForecast("mappers", len(wanted), done, missing, seconds, size), found

    def _with_latents(self, settings: RunSettings) -> tuple[RunSettings, list[str]]:
        """Name the latents to time edits with: the run's where it has some, else the sample's."""
        for store in (store_of(settings), self._rehearsal.latents):
            if store.ledger.committed():
                rows = next(store.ledger.results()).to_pylist()
                names = [row["image_id"] for row in rows if row["status"] == "ok"]
                if names:
                    return replace(settings, latents=store.folder.url), names
        return settings, []


def _stays(settings: RunSettings, retry: Sequence[str], update: bool, row: Row) -> bool:
    """Whether a result row is not made again."""
    return row["status"] not in retry and not (update and is_stale(row, settings))


def _count_work(
    folder: Folder,
    stays: Callable[[Row], bool],
    batches: Iterable[pa.RecordBatch],
    shard_size: int,
    batch_size: int,
) -> _Work:
    """Find out which rows of a run are to do, and count their batches."""
    kept, work, grouped = list[NDArray[np.uint64]](), _Work(), 0
    for table in run_ledger(folder).results():
        chosen = pa.array(map(stays, table.to_pylist()), pa.bool_())
        kept.append(row_hashes(table.filter(chosen)))
    done = sort_hashes(kept)
    for table in regroup(batches, shard_size):
        work.hashes.append(row_hashes(table))
        is_done = are_among(work.hashes[-1], done)
        work.rows, work.done = work.rows + len(table), work.done + int(is_done.sum())
        counted = table.group_by(_GROUP, use_threads=False).aggregate([([], "count_all")])
        for group in counted.to_pylist():
            work.groups[tuple(group[name] for name in _GROUP)] += group["count_all"]
        work.draw(table)
        if grouped < _MOST_GROUPED:
            rows = table.filter(pa.array(~is_done)).to_pylist()
            grouped += len(rows)
            _count_batches(rows, batch_size, work)
    for kind in work.kinds.values():
        scale = (work.rows - work.done) / grouped
        kind.rows, kind.batches = kind.rows * scale, kind.batches * scale
    return work


@dataclass(frozen=True)
class RowsToCome:
    """The rows of faces with prompts, built anew each time that they are iterated."""

    image_ids: Sequence[str]
    prompts: Sequence[Instruction]

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return build_edits(self.image_ids, self.prompts)


def _count_batches(rows: Sequence[Row], batch_size: int, work: _Work) -> None:
    """Add the rows of a shard and the batches that they come in."""
    groups, examples = Counter[Hashable](), dict[Hashable, Row]()
    for row in rows:
        key = rows_together(row)
        groups[key] += 1
        examples.setdefault(key, row)
    for key, count in groups.items():
        row = examples[key]
        kind = work.kinds.setdefault(kind_of(row), _Kind(row))
        kind.rows += count
        kind.batches += -(-count // batch_size)
