"""Verification: does a run hold what was committed, and are its assets those it was made with?"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import replace
from functools import partial
from shlex import quote
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.ids import IdIndex
from manifests.schemas import EDITS, RESULT_STATUSES
from styleclip_ops.arithmetic import PLAIN
from styleclip_ops.errors import ConfigError
from tasks.bundles import fingerprint_name
from tasks.checks.findings import Finding, unreadable
from tasks.checks.rerendering import EvenDraw, render_again
from tasks.directions import DirectionStore
from tasks.edits import mapper_url
from tasks.frozen import manifest_card, read_card, require_card, row_hashes
from tasks.latents import BINDING, CHUNK, LatentStore
from tasks.mappers import CARD, WEIGHTS, mapper_fingerprint, trained_for
from tasks.models import read_models
from tasks.outputs import altered_files
from tasks.photos.alignment import faces_settings
from tasks.photos.faces import faces_ledger
from tasks.places import OWN_FOLDERS, RUNS
from tasks.runs import RunError, read_settings, run_ledger, run_places
from tasks.store.folders import Folder
from tasks.store.ledger import Ledger, Row
from tasks.store.redaction import bare_address

OnProgress = Callable[[int], None]

_UNREADABLE = (ValueError, OSError, KeyError, TypeError, pa.ArrowException)
_AGAIN = "give the command that began the run again"
# Of a run that did not note how its directions were measured.
_MEASURE = "give `styleclip relevance` with the options that they were measured with"
_INVERT = "restore the store from a copy, or `styleclip invert` with --redo-damaged"
# For `find`, see `Folder.half_written`.
_HALF_WRITTEN = r"\( -name '.part-*' -o -path '*.zarr/*.partial' \)"
_REDO = "restore it from a copy, or take a new run name and edit again"


class Verification:
    """Check one run, a shard at a time; memory grows by 50 bytes a row and some 300 a face.

    Args:
        run: URL of the run.
        device: See `tasks.models.open_models`.
        models: URL of the bundle; the one that the run names where empty.
        sample: Edits to render again.
        seed: Which ones.

    Attributes:
        counts: What was looked at, by kind; `waiting` are planned rows without a result.
        images: Faces that the run edited, each with the sha256 of the latents that were edited;
            known after `check_results`.

    Raises:
        RunError: There is no such run.
        BundleError: There is no such bundle.
    """

    def __init__(self, run: str, device: str, models: str, sample: int, seed: int) -> None:
        folder = Folder(run)
        self._ledger, self._places = run_ledger(folder), run_places(folder)
        self._settings = read_settings(folder)
        # Not `open_models`, which would remember what the files were.
        self._networks = read_models(models or self._settings.models, device)
        self._store = LatentStore(Folder(self._settings.latents))
        self._sample = EvenDraw(sample, random.Random(seed))  # noqa: S311
        self._mappers: dict[str, set[str]] = {}
        self._same_networks = self._has_latents = True
        self._told = set[str]()
        self.images: dict[str, tuple[str, ...]] = {}
        self._former_latents = set[str]()
        self.counts: Counter[str] = Counter()

    @property
    def rows(self) -> int:
        """Rows that the frozen manifest should have."""
        return int(read_card(self._ledger.folder).get("rows", 0))

    def check_assets(self) -> Iterator[Finding]:
        """Compare weights, directions and latent store with the run's fingerprints."""
        for role, wanted in self._settings.fingerprints.items():
            what = f"weights of {role} in {self._networks.bundle.url}"
            remedy = "name the weights that the run was made with: `styleclip weights add`"
            got = partial(self._networks.fingerprint, role)  # type: ignore[arg-type]
            for finding in self._compare(what, got, wanted, remedy):
                self._same_networks = False
                yield finding
        if self._settings.directions:
            yield from self._check_directions(DirectionStore(Folder(self._settings.directions)))
        yield from self._check_binding()

    def _check_directions(self, store: DirectionStore) -> Iterator[Finding]:
        what = f"directions {store.folder.url}"
        if not store.exists:
            again = f"{_AGAIN}, which measures them" if self._settings.relevance else _MEASURE
            expected = "those that the run was made with"
            yield Finding(what, "none", expected, f"restore them from a copy, or {again}")
            return
        wanted = self._settings.directions_fingerprint
        remedy = "restore the store from a copy; edits of this run used other directions"
        yield from self._compare(what, partial(_directions, store), wanted, remedy)

    def check_faces(self) -> Iterator[Finding]:
        """Check the ledger of the workspace's faces, and what binds them to parameters."""
        ledger = faces_ledger(self._places.workspace.url)
        try:
            faces_settings(ledger.folder)
        except ConfigError as error:
            yield unreadable("", error)
        except FileNotFoundError:
            if ledger.committed():
                yield Finding(
                    f"{ledger.folder.url}/settings.json",
                    "no such file",
                    "what the faces were made with",
                    "restore it from a copy; `styleclip align` makes it anew, of which "
                    "--crop-size, --faces and --minimum-face should be as before",
                    "suspicious",
                )
        yield from check_faces(ledger)

    def check_leftovers(self) -> Iterator[Finding]:
        """Name what killed writers left in folders of this machine; in stores nothing is left."""
        own = (self._places.workspace / name for name in OWN_FOLDERS if name != RUNS)
        for folder in (self._ledger.folder, *own):
            if folder.is_local and (left := folder.half_written()):
                yield Finding(
                    folder.url,
                    f"half-written files, such as {left[0]}",
                    "none but those of commands at work",
                    f"`find {quote(folder.url)} -type f -mmin +60 {_HALF_WRITTEN} -delete` removes "
                    "what commands left that were killed more than an hour ago",
                    "suspicious",
                )

    def check_results(self, advance: OnProgress) -> Iterator[Finding]:
        """Compare plans, commits, parts, rows and images with each other."""
        index, hashes, seen = IdIndex(), list[NDArray[np.uint64]](), 0
        plans = self._ledger.plans()
        committed = self._ledger.committed()
        done, lacking, missing = set(committed), set(self._ledger.lacking_commits()), 0
        orphans = done - {*plans}
        yield from _incomplete(self._ledger, orphans, lacking, _AGAIN)
        is_whole = not orphans
        for shard in plans:
            try:
                units = self._ledger.units(shard).select(EDITS.names).cast(EDITS)
            except _UNREADABLE as error:
                yield from self._unreadable(
                    f"plan of shard {shard} in {self._ledger.folder.url}", error
                )
                is_whole = False
                continue
            hashes.append(row_hashes(units))
            if shard in done:
                self.counts["shards"] += 1
                numbers = range(seen + 1, seen + 1 + len(units))
                yield from self._check_shard(shard, units, index, numbers)
            elif shard not in lacking:
                missing += 1
                self.counts["waiting"] += len(units)
            seen += len(units)
            advance(seen)
        if missing:
            yield Finding(
                f"results of {self._ledger.folder.url}",
                f"none yet of {missing:,} of {len(plans):,} shards",
                "those of all, once the run is finished",
                f"{_AGAIN}; if it was finished, they are lost, and that makes them anew",
                "suspicious",
            )
        if is_whole:
            yield from self._check_card(manifest_card(hashes))
        yield from self._check_mappers()

    def check_latents(self, advance: OnProgress) -> Iterator[Finding]:
        """Compare the stored latents of the run's faces with their digests and crops."""
        if not self._has_latents:
            return
        ledger, missing, done = self._store.ledger, dict.fromkeys(self.images, ""), 0
        committed, plans, lacking = (
            {*ledger.committed()},
            {*ledger.plans()},
            ledger.lacking_commits(),
        )
        orphans = committed - plans
        yield from _incomplete(ledger, orphans, lacking, "give `styleclip invert` again")
        if orphans or lacking:
            # They may be there.
            missing.clear()
        for shard in sorted(committed & plans):
            try:
                units = ledger.units(shard).select(["image_id", "crop_uri"]).to_pylist()
                crops = {unit["image_id"]: unit["crop_uri"] for unit in units}
                rows = [
                    row | {"crop_uri": crops.get(row["image_id"])}
                    for row in ledger.rows(shard).to_pylist()
                    if row["image_id"] in self.images
                ]
            except _UNREADABLE as error:
                yield from self._unreadable(f"shard {shard} of {ledger.folder.url}", error)
                # It may be theirs.
                missing.clear()
                continue
            usable = [row for row in rows if row["status"] == "ok"]
            for row in rows:
                if row["status"] == "ok":
                    missing.pop(row["image_id"], None)
                    yield from self._check_edited(row)
                elif row["image_id"] in missing:
                    missing[row["image_id"]] = f": {row['status']}: {row['error']}"
            for start in range(0, len(usable), CHUNK):
                yield from self._check_latents(usable[start : start + CHUNK])
            done += len(rows)
            advance(done)
        for image_id, reason in missing.items():
            yield Finding(
                f"image {image_id}",
                f"no latent in {self._store.folder.url}{reason}",
                "the one that its edits were made from",
                "restore the store from a copy, or give `styleclip invert` with --retry-failed",
            )

    def check_edits(self, advance: OnProgress) -> Iterator[Finding]:
        """Render a sample again from the stored latents, and compare the pixels.

        Nothing is rendered with other networks than the run's, or without its latents.
        """
        if not (self._same_networks and self._has_latents):
            return
        for done, (shard, pairs) in enumerate(self._sample.by_shard().items(), 1):
            try:
                for finding in self._render_again(shard, pairs):
                    self.counts["rendered again"] += 1
                    if finding is not None:
                        yield finding
            except _UNREADABLE as error:
                yield from self._unreadable(f"rendering of shard {shard}", error)
            advance(done)

    def _unreadable(self, what: str, error: Exception) -> Iterator[Finding]:
        """Tell once of what cannot be read, though several shards may need it."""
        finding = unreadable(what, error)
        if str(finding) not in self._told:
            self._told.add(str(finding))
            yield finding

    def _render_again(self, shard: int, pairs: Set[str]) -> Iterator[Finding | None]:
        """Render edits of a shard again, each as the commit that made it."""
        left = {*self._ledger.rows(shard)["pair_id"].to_pylist()}
        for commit, table in reversed([*self._ledger.history(shard)]):
            edited = commit.facts.get("edited")
            rows = [row for row in table.to_pylist() if edited is None or row["pair_id"] in edited]
            # Of another latent they could not come out as they are.
            drawn = [
                row
                for row in rows
                if row["pair_id"] in left & pairs
                and row["latent_sha256"] not in self._former_latents
            ]
            left -= {row["pair_id"] for row in rows}
            for row in drawn:
                row["output_uri"] = self._find_edit(row["output_uri"])
                row["mapper_uri"] = row["mapper_uri"] and self._find(row["mapper_uri"])
            settings = replace(
                self._settings, arithmetic=commit.facts.get("arithmetic", str(PLAIN))
            )
            if drawn:
                yield from render_again(drawn, settings, self._networks, commit.facts.get("device"))

    @property
    def sampled_shards(self) -> int:
        """Shards that the sample comes from."""
        return len(self._sample.by_shard())

    def _check_shard(
        self, shard: int, units: pa.Table, index: IdIndex, numbers: range
    ) -> Iterator[Finding]:
        what = f"shard {shard} of {self._ledger.folder.url}"
        try:
            table = self._ledger.rows(shard)
        except _UNREADABLE as error:
            yield from self._unreadable(what, error)
            return
        yield from _differences(what, table, units)
        rows = table.to_pylist()
        self.counts["rows"] += len(rows)
        ids = units["pair_id"].to_pylist()
        firsts = index.first_rows(ids, numbers).tolist()
        for name, number, first in zip(ids, numbers, firsts, strict=True):
            if number != first:
                yield Finding(
                    f"{what}, pair_id {name}",
                    f"it in rows {first:,} and {number:,} of the run",
                    "every pair once",
                    _REDO,
                )
        for row in rows:
            yield from self._check_row(what, row)
            if row["status"] == "ok":
                edited, digest = self.images.get(row["image_id"], ()), row["latent_sha256"]
                is_known = digest is None or digest in edited
                self.images[row["image_id"]] = edited if is_known else (*edited, digest)
                self._sample.see(row["method"], shard, row["pair_id"])
        yield from self._check_images([row for row in rows if row["status"] == "ok"])

    def _check_row(self, what: str, row: Row) -> Iterator[Finding]:
        place = f"{what}, pair_id {row['pair_id']}"
        if row["status"] not in RESULT_STATUSES:
            expected = f"one of {', '.join(RESULT_STATUSES)}"
            yield Finding(f"{place}, status", repr(row["status"]), expected, _REDO)
        for role, wanted in self._settings.fingerprints.items():
            got = row.get(f"{role}_fingerprint")
            if got != wanted:
                yield Finding(f"{place}, {role}_fingerprint", str(got), wanted, _REDO)
        if row["status"] != "ok":
            return
        if row["method"] == "mapper" and self._same_networks:
            url = self._find(mapper_url(row, self._settings, self._networks))
            self._mappers.setdefault(url, set()).add(row["asset_fingerprint"])
        wanted = self._settings.directions_fingerprint
        if row["method"] == "global" and row["asset_fingerprint"] != wanted:
            yield Finding(f"{place}, asset_fingerprint", row["asset_fingerprint"], wanted, _REDO)

    def _check_images(self, rows: list[Row]) -> Iterator[Finding]:
        wanted = {self._find_edit(row["output_uri"]): row for row in rows}
        self.counts["images"] += len(wanted)
        digests = {uri: row["output_sha256"] for uri, row in wanted.items()}
        for uri, got in altered_files(digests).items():
            yield Finding(
                f"image {uri}",
                f"sha256 {got}" if got else "no such file",
                f"sha256 {digests[uri]}",
                f"restore it from a copy, or {_AGAIN} with --redo-damaged",
            )

    def _check_card(self, got: dict[str, Any]) -> Iterator[Finding]:
        try:
            card = require_card(self._ledger.folder)
        except RunError as error:
            yield from self._unreadable("", error)
            return
        except FileNotFoundError:
            card = {}
        differing = [name for name in got if card.get(name) != got[name]]
        if differing:
            yield Finding(
                f"frozen manifest of {self._ledger.folder.url}",
                ", ".join(f"{name} {got[name]}" for name in differing),
                ", ".join(f"{name} {card.get(name)}" for name in differing),
                f"{_AGAIN} if planning was stopped; otherwise restore the plans from a copy",
            )

    def _check_mappers(self) -> Iterator[Finding]:
        for url, used in self._mappers.items():
            is_ours = url.startswith(f"{self._places.workspace.url}/")
            if is_ours and not Folder(url).exists(CARD):
                yield Finding(
                    f"mapper {url}",
                    f"no {CARD}",
                    "what it was trained for",
                    "restore it from a copy, or give the command again that trained the mapper",
                )
            remedy = "restore the mapper from a copy; edits of this run used another"
            if is_ours and not Folder(url).exists(WEIGHTS):
                remedy = f"restore it from a copy, or {_AGAIN}, which trains it as it was"
            for wanted in sorted(map(str, used)):
                yield from self._compare(f"mapper {url}", partial(_mapper, url), wanted, remedy)

    def _check_binding(self) -> Iterator[Finding]:
        try:
            attributes = self._store.attributes
        except _UNREADABLE as error:
            yield from self._unreadable(f"latents {self._store.folder.url}", error)
            self._has_latents = False
            return
        for role in BINDING:
            name = fingerprint_name(role)
            yield from self._compare(
                f"latents {self._store.folder.url}, {name}",
                partial(str, attributes.get(name)),
                self._settings.fingerprints.get(role, ""),
                "restore the store that the run was made with",
            )

    def _check_edited(self, row: Row) -> Iterator[Finding]:
        """Compare a latent, as it is committed, with those that its edits were made from."""
        for digest in {*self.images[row["image_id"]]} - {row["stored_sha256"]}:
            self._former_latents.add(digest)
            yield Finding(
                f"edits of {row['image_id']}",
                f"some of a latent with sha256 {digest}",
                f"all of the one that is stored now, sha256 {row['stored_sha256']}",
                f"{_AGAIN} with --redo-damaged",
            )

    def _check_latents(self, rows: list[Row]) -> Iterator[Finding]:
        self.counts["latents"] += len(rows)
        what = self._store.folder.url
        try:
            stored = self._store.read_stored([row["row"] for row in rows])
            texts = self._store.altered_texts(rows)
        except _UNREADABLE as error:
            yield from self._unreadable(f"latents {what}", error)
            return
        for row, names in zip(rows, texts, strict=True):
            if names:
                yield Finding(
                    f"latent of {row['image_id']} in {what}, row {row['row']}",
                    f"another {names} in the Zarr store",
                    "those of its row in the ledger",
                    _INVERT,
                )
        finite = [bool(np.isfinite(w_plus).all()) for w_plus in stored.w_plus]
        for row, is_finite, digest in zip(rows, finite, stored.digests(), strict=True):
            place = f"latent of {row['image_id']} in {what}, row {row['row']}"
            if not is_finite:
                yield Finding(place, "NaN or infinity", "finite numbers", _INVERT)
            elif digest != row["stored_sha256"]:
                expected = f"{row['stored_sha256']}"
                yield Finding(place, f"values of sha256 {digest}", expected, _INVERT)
        yield from self._check_pictures(rows)

    def _check_pictures(self, rows: list[Row]) -> Iterator[Finding]:
        """Compare crops with those that were inverted, and inversions with their own checksums."""
        wanted = {
            self._find_face(row["crop_uri"]): row["source_sha256"]
            for row in rows
            if row["crop_uri"]
        }
        for uri, got in altered_files(wanted).items():
            yield Finding(
                f"crop {uri}",
                f"sha256 {got}" if got else "no such file",
                f"sha256 {wanted[uri]}, which was inverted",
                "restore it from a copy, or give `align` and then `invert` with --redo-damaged",
            )
        shown = (self._find_face(row["inversion_uri"]) for row in rows)
        for uri, got in altered_files(dict.fromkeys(shown)).items():
            yield Finding(
                f"inversion {uri}",
                "a damaged picture" if got else "no such file",
                "what the stored latent looks like",
                "restore it from a copy, or `styleclip invert` with --redo-damaged",
            )

    def _compare(
        self, what: str, read: Callable[[], str], wanted: str, remedy: str
    ) -> Iterator[Finding]:
        self.counts["assets"] += 1
        try:
            got = read()
        except _UNREADABLE as error:
            yield from self._unreadable(what, error)
            return
        if got != wanted:
            yield Finding(what, got, wanted, remedy)

    def _find(self, url: str) -> str:
        """Where something of the run is now that the workspace may have been moved."""
        return self._places.find(url) or url

    def _find_face(self, url: str) -> str:
        return self._places.find_face(url) or url

    def _find_edit(self, url: str | None) -> str:
        return self._places.find_edit(url) or str(url)


def _directions(store: DirectionStore) -> str:
    # What binds them to networks, and their accuracy, are what commands look at first.
    _ = store.attributes, store.fidelity
    return store.read().fingerprint


def _mapper(url: str) -> str:
    trained_for(Folder(url))
    return mapper_fingerprint(url) or "no finished mapper"


def check_faces(ledger: Ledger) -> Iterator[Finding]:
    """Check the parts of the faces' ledger against its commits, and its rows against its plans."""
    key = "source_uri"
    plans, committed = ledger.plans(), ledger.committed()
    orphans, lacking = {*committed} - {*plans}, ledger.lacking_commits()
    yield from _incomplete(ledger, orphans, lacking, "give `styleclip align` again")
    for shard in committed:
        what = f"shard {shard} of {ledger.folder.url}"
        try:
            rows = ledger.rows(shard)
            units = ledger.units(shard) if shard in plans else None
        except _UNREADABLE as error:
            yield unreadable(what, error)
            continue
        if units is not None:
            got, wanted = ({*map(bare_address, t[key].to_pylist())} for t in (rows, units))
            if got != wanted:
                yield _unlike(what, key, got, wanted)


def _incomplete(
    ledger: Ledger, orphans: Iterable[int], lacking: Iterable[int], again: str
) -> Iterator[Finding]:
    """Name shards with commits and no plans, and those with results and no commits."""
    for shard in sorted(orphans):
        yield Finding(
            f"shard {shard} of {ledger.folder.url}",
            "a commit without a plan",
            "a plan for every commit",
            "restore the plan from a copy",
        )
    for shard in sorted(lacking):
        yield Finding(
            f"shard {shard} of {ledger.folder.url}",
            "results without a commit",
            "a commit that names them",
            f"restore the commit from a copy, or {again}",
        )
    for shard in ledger.lost_commits():
        yield Finding(
            f"shard {shard} of {ledger.folder.url}",
            "a commit that superseded one which is lost, so that an older one may count",
            "all of them",
            f"restore the lost one from a copy, or remove all commits of that shard and {again}",
        )


def _differences(what: str, table: pa.Table, units: pa.Table) -> Iterator[Finding]:
    """Compare the rows of a shard with those of the frozen manifest."""
    rows = table.select(EDITS.names).cast(EDITS)
    if rows.equals(units):
        return
    got, wanted = Counter(rows["pair_id"].to_pylist()), Counter(units["pair_id"].to_pylist())
    if got == wanted:
        names = [name for name in EDITS.names if not rows[name].equals(units[name])]
        yield Finding(f"{what}, rows", f"other {', '.join(names)}", "those of the manifest", _REDO)
        return
    doubled = sorted((got - wanted).keys() & wanted.keys())
    foreign = sorted(got.keys() - wanted.keys())
    missing = sorted((wanted - got).keys())
    parts = {"doubled": doubled, "foreign": foreign, "missing": missing}
    said = "; ".join(f"{name} {ids[:3]}" for name, ids in parts.items() if ids)
    expected = f"the {len(units)} of the manifest, each once"
    yield Finding(f"{what}, rows", f"{len(rows)} rows: {said}", expected, _REDO)


def _unlike(what: str, key: str, got: set[str], wanted: set[str]) -> Finding:
    few = sorted(map(str, got ^ wanted))[:3]
    said = f"{len(got)} different {key}, other than planned: {few}"
    return Finding(f"{what}, rows", said, f"the {len(wanted)} that were planned", _REDO)
