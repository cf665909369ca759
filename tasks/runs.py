"""Run folders: a frozen manifest, what it is run with, and its results."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import shown
from manifests.schemas import RESULTS
from styleclip_ops.arithmetic import PLAIN
from tasks.arithmetic import AUTO
from tasks.bundles import Role, bundle_url, fingerprint_name
from tasks.directions import (
    DirectionStore,
    RelevanceConfig,
    begun_relevance,
    relevance_options,
)
from tasks.latents import LatentStore, latent_folder
from tasks.mappers import mapper_fingerprint
from tasks.models import Models, open_models
from tasks.places import RUNS, RunPlaces, places_of, workspace_of
from tasks.provenance import CODE_VERSION
from tasks.store.folders import Folder, split_member, split_url
from tasks.store.ledger import LOOKED_AT, Ledger, generation_name, latest_generation

RUN = "run.json"
# Of those that are there, where one is not.
_RUNS_NAMED = 20
# Networks that photographs and edits go through.
ROLES_OF_A_RUN: tuple[Role, ...] = ("generator", "encoder", "clip", "identity")
# What no update can change: where the edited images are, in which form, and what rows do not name.
_FIXED = ("name", "workspace", "image_format", "output", "arithmetic")
_ASSETS = ("directions", "directions_fingerprint", "relevance", "mappers")
# Columns of a result that say what it was made with.
_MARKS = [
    "status",
    "method",
    *(name for name in RESULTS.names if name.endswith("_fingerprint")),
    "code_version",
]
ImageFormat = Literal["png", "webp"]
OutputLayout = Literal["files", "webdataset"]


class RunError(ValueError):
    """A run is not there, or is asked for what it cannot do."""


@dataclass(frozen=True)
class RunSettings:
    """What a run is made with; written once, and compared whenever the run continues.

    Attributes:
        workspace: URL of the workspace.
        models: URL of the bundle.
        fingerprints: Of the networks, by role.
        latents: URL of the W+ store.
        directions: URL of the direction store, empty where no row needs one.
        directions_fingerprint: Of its content.
        relevance: How they were measured, see `RelevanceConfig`; empty where there are none.
        mappers: Fingerprints of the mappers that are there, by URL.
        image_format: Of the edited images.
        output: Single files, or tar shards in the layout of webdataset.
        arithmetic: That edits are rendered in, see `tasks.arithmetic.choose_arithmetic`.
        code_version: Of the code that began the run.
    """

    workspace: str
    models: str
    fingerprints: Mapping[str, str]
    latents: str
    directions: str = ""
    directions_fingerprint: str = ""
    relevance: Mapping[str, Any] = field(default_factory=dict)
    mappers: Mapping[str, str] = field(default_factory=dict)
    image_format: ImageFormat = "png"
    output: OutputLayout = "files"
    arithmetic: str = str(PLAIN)
    code_version: str = CODE_VERSION

    @property
    def marks(self) -> dict[str, str]:
        """The fingerprints by the names that stored data have for them."""
        return {fingerprint_name(role): value for role, value in self.fingerprints.items()}

    def with_assets(
        self, directions: DirectionStore | None, mappers: Iterable[str]
    ) -> "RunSettings":
        """Return these settings with assets.

        Args:
            directions: Where one is needed.
            mappers: URLs of those that are needed.

        Raises:
            DirectionStoreError: The direction store is not finished.
        """
        return replace(
            self,
            directions=directions.folder.url if directions else "",
            directions_fingerprint=directions.read().fingerprint if directions else "",
            relevance=asdict(directions.config) if directions else {},
            mappers={url: mark for url in mappers if (mark := mapper_fingerprint(url))},
        )


def require_run_name(run: str) -> None:
    """Refuse a name of a run to be made that would lead out of its workspace.

    Raises:
        RunError: It is a path.
    """
    if not run.strip(".") or {"/", "\\"} & {*run}:
        raise RunError(f"run: got {run!r}, expected a name without slashes, as in smiles-1")


def run_folder(workspace: str, run: str) -> Folder:
    """Return the folder of a run: its name in the workspace, or its URL."""
    return Folder(run) if "/" in run else Folder(workspace) / RUNS / run


def run_ledger(folder: Folder) -> Ledger:
    """Return the ledger of a run."""
    return Ledger(folder, RESULTS, key="pair_id")


def settings_for(
    workspace: str,
    models: str,
    device: str,
    image_format: ImageFormat,
    output: OutputLayout,
    arithmetic: str = AUTO,
) -> RunSettings:
    """Gather what a run is made with, save for its assets, see `RunSettings.with_assets`.

    Args:
        workspace: URL of the workspace.
        models: URL of the bundle.
        device: See `tasks.models.open_models`.
        image_format: See `RunSettings`.
        output: See `RunSettings`.
        arithmetic: See `RunSettings`.
    """
    networks = open_models(models, device)
    roles = [role for role in ROLES_OF_A_RUN if networks.has(role)]
    return RunSettings(
        workspace=Folder(workspace).url,
        models=bundle_url(models),
        fingerprints=networks.fingerprints(*roles) | {"judge": networks.fingerprint("judge")},
        latents=latent_folder(Folder(workspace), networks).url,
        image_format=image_format,
        output=output,
        arithmetic=arithmetic,
    )


def open_run(folder: Folder, settings: RunSettings, update: bool = False) -> None:
    """Begin a run, or check that it continues with the same settings.

    Args:
        folder: Of the run.
        settings: What it is asked to be made with.
        update: Go on with these, if they differ in what can be computed again.

    Raises:
        RunError: A setting differs; the message names it. Or there are results of other settings.
    """
    wanted: dict[str, Any] = {"name": folder.name} | asdict(settings)
    # Once updated, the first settings are others than those that count, even if these equal them.
    if not is_updated(folder):
        if not folder.exists(RUN):
            _refuse_foreign_results(folder, settings)
        with suppress(FileExistsError):
            folder.create(RUN, json.dumps(wanted, indent=2, sort_keys=True).encode())
            return
    got = read_run_values(folder)
    # Mappers that come to be there later change no row.
    wanted["mappers"] = got.get("mappers", {}) | wanted["mappers"]
    # Earlier runs did not note it.
    if wanted["directions"] == got["directions"]:
        wanted["relevance"] = got.setdefault("relevance", {})
    _refuse_other_settings(folder, got, wanted, update)
    # Earlier releases wrote more than is asked for now.
    if not wanted.items() <= got.items():
        content = json.dumps(wanted, indent=2, sort_keys=True).encode()
        with suppress(FileExistsError):
            folder.create(generation_name(RUN, latest_generation(folder, RUN) + 1), content)
        if not wanted.items() <= read_run_values(folder).items():
            raise RunError(
                f"run {folder.url}: another process updated it with other settings meanwhile; "
                "decide for one, and give its command again"
            )


def _refuse_foreign_results(folder: Folder, settings: RunSettings) -> None:
    """Refuse settings that the results of a run, whose own are lost, were not made with."""
    ledger = run_ledger(folder)
    for shard in ledger.committed():
        arithmetic = ledger.read_commit(shard).facts.get("arithmetic", settings.arithmetic)
        rows = ledger.rows(shard).select([*_MARKS, "output_uri"]).to_pylist()
        if settings.arithmetic not in (AUTO, arithmetic) or any(
            is_stale(row, settings) or not _has_form(row["output_uri"], settings) for row in rows
        ):
            raise RunError(
                f"run {folder.url}: got no {RUN}, and in shard {shard} results that were made with "
                "other settings than are asked for; give those that it was begun with, restore the "
                "file from a copy, or take a new run name"
            )


def _has_form(uri: str | None, settings: RunSettings) -> bool:
    """Whether an edited image, if there is one, is stored as settings say."""
    if uri is None:
        return True
    is_member = bool(split_member(uri, ".tar")[1])
    is_same_layout = is_member == (settings.output == "webdataset")
    return is_same_layout and uri.endswith(f".{settings.image_format}")


def check_run(
    folder: Folder,
    settings: RunSettings,
    networks: Models,
    relevance: RelevanceConfig | None,
    update: bool = False,
) -> None:
    """Check that a run, if it is begun, may go on so, before hours are spent on assets for it.

    Args:
        folder: Of the run.
        settings: What it is asked to be made with; the assets in them do not count.
        networks: Those of the settings.
        relevance: How its directions are to be measured; None where no row needs them.
        update: Go on with these, if they differ in what can be computed again.

    Raises:
        RunError: A setting differs, no face is inverted by the networks, or the run was begun with
            directions that were measured otherwise.
    """
    if not folder.exists(RUN):
        return
    got = read_run_values(folder)
    wanted = {name: value for name, value in asdict(settings).items() if name not in _ASSETS}
    _refuse_other_settings(folder, got, wanted, update)
    if got["latents"] != settings.latents and not store_of(settings).ledger.committed():
        raise RunError(
            f"run {folder.url}: asked to go on with networks that no face is inverted by, expected "
            f"latents in {settings.latents}; `styleclip invert {settings.workspace} --models "
            f"{settings.models}` makes them"
        )
    if relevance is None or update:
        return
    begun = relevance_of(folder, settings.workspace, networks)
    if begun not in (None, relevance):
        raise RunError(
            f"run {folder.url}: asked to continue with directions that are measured with other "
            f"options; it was begun with {relevance_options(begun)}; give those, take a new run "
            "name, or --update to measure anew and compute again what depends on it"
        )


def relevance_of(folder: Folder, workspace: str, networks: Models) -> RelevanceConfig | None:
    """Return how the directions of a run were measured.

    Args:
        folder: Of the run.
        workspace: URL of the workspace.
        networks: That it is asked to be made with.

    Returns:
        None where it is not begun, or has no directions of these networks.
    """
    values = read_run_values(folder) if folder.exists(RUN) else {}
    begun, noted = str(values.get("directions", "")), values.get("relevance", {})
    return begun_relevance(Folder(workspace), networks, begun, noted)


def is_updated(folder: Folder) -> bool:
    """Return whether the settings of a run were changed since it was begun."""
    return latest_generation(folder, RUN) > 0


def read_settings(folder: Folder) -> RunSettings:
    """Read what a run is made with.

    Raises:
        RunError: There is no such run.
    """
    values = read_run_values(folder)
    names = values.keys() & RunSettings.__dataclass_fields__
    return RunSettings(**{name: values[name] for name in names})


def run_places(folder: Folder) -> RunPlaces:
    """Return where a run and its workspace are, and were.

    Raises:
        RunError: There is no such run.
    """
    records = [_read_record(folder, n) for n in range(latest_generation(folder, RUN) + 1)]
    formerly = {str(record["workspace"]) for record in records if record.get("workspace")}
    return places_of(folder, _since_moved(folder, records[-1]), tuple(sorted(formerly)))


def read_run_values(folder: Folder) -> dict[str, Any]:
    """Return run.json, or the latest that superseded it, as plain values.

    URLs in a workspace that was moved since are those of today.

    Raises:
        RunError: There is no such run.
    """
    return _since_moved(folder, _read_record(folder, latest_generation(folder, RUN)))


def _read_record(folder: Folder, generation: int) -> dict[str, Any]:
    name = generation_name(RUN, generation)
    try:
        content = folder.read(name)
    except FileNotFoundError:
        if is_updated(folder) or run_ledger(folder).plans():
            again = "give the command that began the run again, which makes it anew"
            mending = _mending(folder, generation) if is_updated(folder) else again
            raise RunError(
                f"{folder.url}/{name}: got no such file, expected the settings of the run that is "
                f"there; restore it from a copy, or {mending}"
            ) from None
        beside = split_url(folder.url)[0]
        runs = ", ".join(beside.names()[:_RUNS_NAMED]) if beside.name == RUNS else ""
        raise RunError(
            f"run: got {folder.url}, which holds no {RUN}, expected the folder of a run; "
            + (f"runs there: {runs}" if runs else "`styleclip edit` begins one")
        ) from None
    try:
        values: dict[str, Any] = dict(json.loads(content))
    except (ValueError, TypeError) as error:
        raise RunError(
            f"{folder.url}/{name}: got a damaged file, expected the settings of a run; restore it "
            f"from a copy, or {_mending(folder, generation)}"
        ) from error
    return values


def _mending(folder: Folder, generation: int) -> str:
    """What to do about settings of which there is no copy."""
    if not is_updated(folder):
        return "remove it, and the command that began the run makes it anew"
    # Never removed: only a run that is updated has each row compared with its settings.
    other = generation_name(RUN, generation - 1 if generation else 1)
    return f"put a copy of {other} in its place and give the command that updated the run again"


def _since_moved(folder: Folder, values: dict[str, Any]) -> dict[str, Any]:
    began = str(values.get("workspace") or "")
    now = workspace_of(folder, values)

    def place(value: Any) -> Any:
        if isinstance(value, dict):
            return {place(key): inner for key, inner in value.items()}
        inside = isinstance(value, str) and f"{value}/".startswith(f"{began}/")
        return now + value.removeprefix(began) if inside else value

    return {name: place(value) for name, value in values.items()} if began else values


def store_of(settings: RunSettings) -> LatentStore:
    """Return the W+ store of a run."""
    return LatentStore(Folder(settings.latents))


def require_latents(settings: RunSettings) -> None:
    """See that some image has a latent, before hours of work for edits of none.

    Raises:
        RunError: None has.
    """
    store = store_of(settings)
    if not store.ledger.committed():
        raise RunError(
            f"workspace: got {settings.workspace} without latents for these networks, expected "
            "some; give `styleclip align` and `styleclip invert` first, or `styleclip run`, or "
            "bring your own by `styleclip latents import`"
        )


def is_stale(row: Mapping[str, Any], settings: RunSettings) -> bool:
    """Return whether a result row was made with something else than the run is made with now."""
    marks = settings.marks | {"code_version": settings.code_version}
    if any(row[name] != value for name, value in marks.items() if name in row):
        return True
    asset = row["asset_fingerprint"]
    if asset is None:
        return False
    # What other methods depend on beside their row no run knows before it edits.
    if row["method"] == "global":
        return bool(asset != settings.directions_fingerprint)
    return row["method"] == "mapper" and asset not in settings.mappers.values()


def failed_rows(
    folder: Folder, shards: Sequence[int] | None = None
) -> Iterator[tuple[str, int, str]]:
    """Yield each status of rows that are not ok, how many have it, and one of them in words.

    Args:
        folder: Of the run.
        shards: Where to look; everywhere where None. Of many, the first are looked at.
    """
    ledger, counts, examples = run_ledger(folder), Counter[str](), dict[str, str]()
    known = ledger.committed() if shards is None else shards
    for table in ledger.results({*known[:LOOKED_AT]}):
        names = ["status", "image_id", "target_prompt", "error"]
        failed = table.select(names).filter(pc.not_equal(table["status"], "ok"))
        for status, image_id, prompt, error in zip(*failed.to_pydict().values(), strict=True):
            counts[status] += 1
            examples.setdefault(status, f"{image_id}, {shown(prompt)}: {error}")
    for status, count in counts.most_common():
        yield status, count, examples[status]


def shards_to_do(
    folder: Folder,
    retry: Collection[str] = (),
    own: Callable[[Sequence[int]], Sequence[int]] = sorted,
) -> list[int]:
    """Return the shards of a run that have something to do, ascending.

    Args:
        folder: Of the run.
        retry: Statuses of rows that are to be done again.
        own: Returns those of some shards that are looked at.
    """
    ledger, settings = run_ledger(folder), read_settings(folder)

    def is_again(rows: pa.Table) -> bool:
        marks = rows.select(_MARKS).to_pylist()
        return any(row["status"] in retry or is_stale(row, settings) for row in marks)

    return ledger.to_do(is_again if retry or is_updated(folder) else None, own)


def _refuse_other_settings(
    folder: Folder, got: Mapping[str, Any], wanted: Mapping[str, Any], update: bool
) -> None:
    differing = [name for name in wanted if _differs(name, got, wanted)]
    fixed = [name for name in differing if name in _FIXED]
    if differing and (fixed or not update):
        lines = [line for name in differing for line in _tell_difference(name, got, wanted)]
        remedy = "take a new run name, or the settings that it was begun with"
        if not fixed:
            remedy += ", or --update to compute again what depends on them"
        raise RunError(
            f"run {folder.url}: asked to continue with other settings; {remedy}:\n"
            + "\n".join(lines)
        )


def _tell_difference(name: str, got: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    before, now = got.get(name), wanted[name]
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        yield f"  {name}: got {now!r}, begun with {before!r}"
        return
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            yield f"  {name}, {key}: got {now.get(key)!r}, begun with {before.get(key)!r}"


def _differs(name: str, got: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    if name == "mappers":
        known = got.get(name, {})
        return any(known.get(url, mark) != mark for url, mark in wanted[name].items())
    return bool(got.get(name) != wanted[name])
