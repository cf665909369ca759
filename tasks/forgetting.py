"""Forgetting: one face leaves a workspace, everywhere, and a search afterwards proves it.

The ledgers are create-only but for this. It goes against the flow of the data: reports, runs,
latents, faces; and of each first the rows that refer to files, then the files, so that nothing
refers to what is gone. What is to be removed is written down before, and that note is removed last:
stopped anywhere, the same call completes it.
"""

import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.building import write_edits
from manifests.schemas import EDITS
from tasks.frozen import refreeze_manifest
from tasks.latents import STORE, LatentStore
from tasks.manifest_files import usable_faces
from tasks.outputs import without_samples
from tasks.photos.faces import faces_ledger
from tasks.places import CROPS, IMAGES, IMPORTS, INVERSIONS, LATENT_STORES, REPORT, RUNS
from tasks.runs import RUN, run_ledger
from tasks.store.folders import Folder, sha256
from tasks.store.ledger import PARTS, PLANS, Ledger
from tasks.store.redaction import bare_address, stored_address, unsigned
from tasks.traces import Person, Trace, find_traces

_DIGITS = re.compile(r"\d+")


class ForgettingError(ValueError):
    """A face cannot be forgotten as asked."""


@dataclass
class _Note:
    """What is known of a face; kept in the workspace until it is forgotten."""

    image_id: str
    uris: set[str] = field(default_factory=set)
    digests: set[str] = field(default_factory=set)
    imports: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    is_known: bool = False

    def text(self) -> bytes:
        """Write all of it; addresses without what signs them."""
        values = {n: sorted(v) if isinstance(v, set) else v for n, v in asdict(self).items()}
        for name in ("uris", "sources"):
            values[name] = sorted({*map(stored_address, values[name])})
        return json.dumps(values, indent=1).encode()

    def add(self, content: bytes) -> None:
        """Take over what an earlier call noted."""
        for name, value in json.loads(content).items():
            if isinstance(value, list):
                getattr(self, name).update(value)
        self.is_known = True


class Forgetting:
    """Remove one face from a workspace on which no other process is at work.

    Args:
        workspace: URL of the workspace.
        image_id: The face.
        runs: URLs of runs outside the workspace, which are gone through as well.

    Attributes:
        removed: What was removed, by kind.
        siblings: Other faces of the same photograph; they stay.
        duplicates: Faces of other files with the same content: most likely the same person.

    Raises:
        ForgettingError: The image id is no name; or no face here has it, and it looks like a
            misspelt one; or a run is none.
    """

    def __init__(self, workspace: str, image_id: str, runs: Sequence[str] = ()) -> None:
        if not image_id or image_id.startswith("/") or ".." in image_id.split("/"):
            raise ForgettingError(f"image_id: got {image_id!r}, expected the name of a face")
        self._root, self._id = Folder(workspace), image_id
        self._name = f"forgetting-{sha256(image_id.encode())[:16]}.json"
        self._outside = [Folder(run) for run in runs]
        for place in self._outside:
            if not place.exists(RUN):
                raise ForgettingError(
                    f"runs: got {place.url}, which holds no {RUN}, expected the folder of a run"
                )
        self._note = _Note(image_id)
        self.removed: Counter[str] = Counter()
        self.siblings: set[str] = set()
        self.duplicates: set[str] = set()
        self._survey()

    @property
    def is_known(self) -> bool:
        """Whether the workspace has rows of the face, or a note that it is half forgotten."""
        return self._note.is_known

    @property
    def has_pictures(self) -> bool:
        """Whether the workspace has a crop or an inversion of the face."""
        return any(map(self._pictures, (CROPS, *self._inversion_folders())))

    @property
    def pairs(self) -> int:
        """Edits of the face, over all runs."""
        return self._pairs

    @property
    def runs(self) -> list[str]:
        """URLs of the runs with edits of the face."""
        return sorted(self._note.runs)

    @property
    def sources(self) -> list[str]:
        """Photographs of the face; they are their owner's, and stay."""
        return sorted({unsigned(stored_address(uri)) for uri in self._note.sources})

    @property
    def person(self) -> Person:
        """What the face is searched by."""
        return Person(self._id, frozenset(self._note.uris), frozenset(self._note.digests))

    def erase(self) -> None:
        """Remove every row and file of the face.

        Raises:
            LedgerError: A part is damaged, so that rows cannot be taken out of it.
            ForgettingError: A tar is damaged.
        """
        self._root.write(self._name, self._note.text())
        for url in self.runs:
            self._erase_from_run(Folder(url))
        self._erase_from_tables()
        for store in self._stores():
            self._erase_from_store(store)
        self._erase_imports()
        for folder in self._inversion_folders():
            self._remove_pictures(folder)
        self._erase_from_faces()
        self._remove_pictures(CROPS)
        for place in (self._root, *self._outside):
            for path in place.half_written():
                place.remove(path)

    def files(self) -> list[tuple[Folder, str]]:
        """Return every file that the proof looks at: all but the note and the photographs."""
        found = [(root, path) for root in (self._root, *self._outside) for path in root.files()]
        mine = {*self._note.sources, self._root.url_of(self._name)}
        return [(root, path) for root, path in found if root.url_of(path) not in mine]

    def prove(
        self, files: Sequence[tuple[Folder, str]], advance: Callable[[int], None]
    ) -> Iterator[Trace]:
        """Search files for the face; where nothing is found the note is removed.

        Args:
            files: See `files`.
            advance: Called with the number of files searched.
        """
        person, left = self.person, 0
        for done, (folder, path) in enumerate(files, 1):
            for trace in find_traces(folder, path, person):
                left += 1
                yield trace
            advance(done)
        for url in self._note.runs:
            if Folder(url).exists(f"{IMAGES}/{self._id}"):
                left += 1
                yield Trace(Folder(url).url_of(f"{IMAGES}/{self._id}"), "a folder")
        if not left:
            self._root.remove(self._name)

    def _survey(self) -> None:
        """Note everything that names the face, before anything of it is removed."""
        note, self._pairs = self._note, 0
        rows, others = self._face_rows()
        note.sources.update(row["source_uri"] for row in rows)
        for store in self._stores():
            for table in self._tables_of(store.ledger):
                for row in table:
                    note.uris.update(_texts(row, "crop_uri", "inversion_uri"))
                    note.digests.update(_texts(row, "source_sha256"))
                    note.imports.update(_texts(row, "w_plus_uri"))
                    note.is_known = True
        for folder in self._run_folders():
            pairs = set[str]()
            for table in self._tables_of(run_ledger(folder)):
                for row in table:
                    note.digests.update(_texts(row, "pair_id", "output_sha256", "edit_key"))
                    note.runs.add(folder.url)
                    pairs.add(row["pair_id"])
                    note.is_known = True
            self._pairs += len(pairs)
        for row in rows:
            note.uris.update(_texts(row, "source_uri", "crop_uri"))
            note.digests.update(_texts(row, "source_sha256", "crop_sha256"))
            note.is_known = True
        if self._root.exists(self._name):
            note.add(self._root.read(self._name))
        if not note.is_known and not self.has_pictures:
            _refuse_misspelt(self._id, usable_faces(self._root.url))
        digests = note.digests
        for row in others:
            if row["source_uri"] in note.sources:
                self.siblings.add(row["image_id"])
            elif row["source_sha256"] in digests:
                self.duplicates.add(row["image_id"])
            # What also names somebody else is no trace of this one.
            note.uris -= {row["source_uri"]}
        note.digests -= {row["source_sha256"] for row in others}
        # Ids that people chose may be any word.
        note.digests = {text for text in note.digests if len(text) >= 16}

    def _face_rows(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The rows of the face, and those that may share a photograph with it."""
        ledger = faces_ledger(self._root.url)
        mine = [row for table in self._tables_of(ledger) for row in table]
        mine = [{"source_sha256": None, "crop_uri": None, "crop_sha256": None} | r for r in mine]
        uris = {row["source_uri"] for row in mine}
        digests = {row["source_sha256"] for row in mine} - {None}
        if self._root.exists(self._name):
            values = json.loads(self._root.read(self._name))
            uris.update(values["sources"])
            digests.update(values["digests"])
        others = list[dict[str, Any]]()
        for table in ledger.results():
            chosen = pc.or_(
                pc.is_in(table["source_uri"], pa.array(uris, pa.string())),
                pc.is_in(table["source_sha256"], pa.array(digests, pa.string())),
            )
            chosen = pc.and_(chosen, pc.not_equal(table["image_id"], self._id))
            others += (
                table.filter(chosen).select(["image_id", "source_uri", "source_sha256"]).to_pylist()
            )
        return mine, others

    def _tables_of(self, ledger: Ledger) -> Iterator[list[dict[str, Any]]]:
        """The units and the rows of the face in a ledger, a table at a time."""
        for table in ledger.tables():
            yield _of(table, self._id).to_pylist()

    def _stores(self) -> list[LatentStore]:
        folder = self._root / LATENT_STORES
        names = [name for name in folder.names() if (folder / name / STORE).exists("zarr.json")]
        return [LatentStore(folder / name) for name in names]

    def _run_folders(self) -> list[Folder]:
        folder = self._root / RUNS
        inside = [folder / name for name in folder.names() if (folder / name).exists(RUN)]
        return [*inside, *self._outside]

    def _erase_from_run(self, run: Folder) -> None:
        run.remove_all(REPORT)
        ledger = run_ledger(run)
        self.removed["result rows"] += ledger.forget(
            self._without, self._without, _recount_statuses
        )
        refreeze_manifest(run)
        images = run / IMAGES
        self.removed["files"] += len((images / self._id).files())
        images.remove_all(self._id)
        for name in images.names(".tar"):
            self._erase_from_tar(images, name)

    def _erase_from_tar(self, images: Folder, name: str) -> None:
        content = images.read(name)
        try:
            kept, removed = without_samples(content, self._id)
        except tarfile.TarError as error:
            raise ForgettingError(
                f"{images.url_of(name)}: got a damaged tar ({error}), expected one that can be "
                "read; restore it from a copy, or remove it"
            ) from error
        if removed:
            self.removed["files"] += removed
            images.write(name, kept)

    def _erase_from_tables(self) -> None:
        """Take the rows of the face out of manifests, wherever they lie in the workspace."""
        for folder in (self._root, *self._outside):
            for path in folder.files():
                inside = path.split("/")
                if path.endswith(".parquet") and not {PLANS, PARTS} & set(inside):
                    self._erase_from_table(folder, path)

    def _erase_from_table(self, folder: Folder, path: str) -> None:
        content, sink = folder.read(path), io.BytesIO()
        try:
            file = pq.ParquetFile(io.BytesIO(content), pre_buffer=False)
            schema, before = file.schema_arrow, file.metadata.num_rows
            if "image_id" not in schema.names or pa.types.is_nested(schema.field("image_id").type):
                return
            kept = (self._without(batch) for batch in file.iter_batches(use_threads=False))
            if schema.remove_metadata().equals(EDITS.remove_metadata()):
                after = write_edits(kept, sink)
            else:
                after = _write(kept, schema, sink)
        except (pa.ArrowException, OSError):
            # Damaged: the search for traces looks at its bytes.
            return
        if after < before:
            self.removed["manifest rows"] += before - after
            folder.write(path, sink.getvalue())

    def _erase_from_store(self, store: LatentStore) -> None:
        ledger = store.ledger
        for shard in ledger.pending():
            if len(_of(ledger.units(shard), self._id)):
                # A killed writer may have left anybody's data there: all of it is overwritten.
                store.erase_shard(shard)
        self.removed["latent rows"] += ledger.forget(self._without, self._without, _without_digest)
        self.removed["latents"] += store.erase(self._id)

    def _erase_imports(self) -> None:
        """Blank the latents that no face has any more, and remove the copies that nothing names."""
        # The workspace may have been moved since they were planned.
        found = {tuple(uri.rpartition("/")[2].split("#")) for uri in self._note.imports}
        used = set[tuple[str, ...]]()
        for store in self._stores():
            for table in store.ledger.tables():
                uris = table["w_plus_uri"].to_pylist() if "w_plus_uri" in table.schema.names else []
                used.update(tuple(uri.rpartition("/")[2].split("#")) for uri in uris if uri)
        folder, named, gone = self._root / IMPORTS, {copy for copy, _ in used}, found - used
        for name in folder.names(".npy"):
            if name not in named:
                folder.remove(name)
                continue
            rows = [int(row) for copy, row in gone if copy == name]
            if rows:
                latents = np.load(io.BytesIO(folder.read(name)), allow_pickle=False)
                latents[rows] = np.nan
                sink = io.BytesIO()
                np.save(sink, latents)
                folder.write(name, sink.getvalue())

    def _erase_from_faces(self) -> None:
        ledger = faces_ledger(self._root.url)
        stay: dict[str, str] = {}
        for table in ledger.results():
            chosen = pc.is_in(table["source_uri"], pa.array(self._note.sources, pa.string()))
            for row in self._without(table.filter(chosen)).to_pylist():
                stay.setdefault(bare_address(row["source_uri"]), row["image_id"])

        def keep_units(units: pa.Table) -> pa.Table:
            """A photograph with other faces stays planned, by the name of one of them."""
            rows = units.to_pylist()
            mine = [row["image_id"] == self._id for row in rows]
            for row, is_mine in zip(rows, mine, strict=True):
                other = stay.get(bare_address(row["source_uri"]), "")
                row["image_id"] = other if is_mine else row["image_id"]
            kept = [row for row in rows if row["image_id"]]
            return pa.Table.from_pylist(kept, units.schema) if any(mine) else units

        self.removed["face rows"] += ledger.forget(self._without, keep_units, _recount_photos)

    def _inversion_folders(self) -> list[str]:
        """One for each store of latents; earlier ones lie directly inside."""
        own = (f"{INVERSIONS}/{name}" for name in (self._root / INVERSIONS).names())
        return [INVERSIONS, *own]

    def _pictures(self, folder: str) -> int:
        further = self._root / folder / self._id
        return self._root.exists(f"{folder}/{self._id}.png") + len(further.files())

    def _remove_pictures(self, folder: str) -> None:
        self.removed["files"] += self._pictures(folder)
        self._root.remove(f"{folder}/{self._id}.png")
        self._root.remove_all(f"{folder}/{self._id}")

    def _without(self, table: Any) -> Any:
        """The rows of other faces; rows without an image id stay."""
        others = pc.not_equal(table["image_id"].cast(pa.string()), self._id)
        return table.filter(pc.fill_null(others, True))


def _of(table: pa.Table, image_id: str) -> pa.Table:
    return table.filter(pc.equal(table["image_id"], image_id))


def _refuse_misspelt(image_id: str, known: Collection[str]) -> None:
    """Tell a name that nobody has here from a slip: who forgets should not be told it is done."""
    # Names that differ in a number alone are other people.
    others = [name for name in known if _DIGITS.sub("", name) != _DIGITS.sub("", image_id)]
    if alike := get_close_matches(image_id, others, 1, cutoff=0.7):
        raise ForgettingError(
            f"image_id: got {image_id!r}, of whom nothing is here; did you mean {alike[0]!r}? "
            "`styleclip faces WORKSPACE` lists all"
        )


def _texts(row: Mapping[str, Any], *names: str) -> set[str]:
    return {row[name] for name in names if row.get(name)}


def _recount_statuses(
    _shard: int, facts: Mapping[str, object], rows: pa.Table
) -> Mapping[str, object]:
    """The facts of the rows that stay; `verify` cannot make their batches again."""
    facts = {name: fact for name, fact in facts.items() if name != "device"}
    if "edited" in facts:
        edited = pa.array(facts["edited"], pa.string())
        facts["edited"] = rows["pair_id"].filter(pc.is_in(rows["pair_id"], edited)).to_pylist()
    return facts | {"statuses": dict(Counter(rows["status"].to_pylist()))}


def _recount_photos(
    _shard: int, facts: Mapping[str, object], rows: pa.Table
) -> Mapping[str, object]:
    return {**facts, "photos": len(set(rows["source_uri"].to_pylist()))}


def _without_digest(
    _shard: int, facts: Mapping[str, object], _rows: pa.Table
) -> Mapping[str, object]:
    """The facts without the digest of the shard's numbers; each row has one of its own."""
    return {name: fact for name, fact in facts.items() if name != "sha256"}


def _write(batches: Iterator[pa.RecordBatch], schema: pa.Schema, sink: io.BytesIO) -> int:
    rows = 0
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += len(batch)
    return rows
