"""What edits need beside networks and latents, from the rows that ask for them."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.errors import EditError
from manifests.instructions import Instruction, Limits
from tasks.directions import RelevanceConfig
from tasks.frozen import manifest_card, read_card, require_same_manifest, row_hashes
from tasks.latents import LatentStore
from tasks.limits import PROMPTS, SHORT_PROMPT, NetworkLimits, is_long
from tasks.manifest_files import Manifest, read_prompts, stream_manifest
from tasks.mappers import MapperConfig, require_mappers
from tasks.models import Models
from tasks.runs import RunError, RunSettings, check_run
from tasks.store.folders import Folder


class Survey(NamedTuple):
    """What the rows of a manifest need.

    Attributes:
        methods: Those that they use.
        mappers: Prompts and settings of the mappers that are to be trained.
        mapper_uris: Mappers that they name.
        read: Reads the rows again, and refuses what is beyond limits.
        num_channels: The most style channels that one asks for; 0 where none says how many.
        long_prompts: Those that may have more tokens than CLIP takes.
        card: Of the rows, see `tasks.frozen.manifest_card`; None of prompts.
        version: Of the file when it was read.
    """

    methods: set[str]
    mappers: list[tuple[str, MapperConfig]]
    mapper_uris: list[str]
    read: Callable[[Limits], Iterable[object]]
    num_channels: int = 0
    long_prompts: frozenset[str] = frozenset()
    card: Mapping[str, Any] | None = None
    version: str = ""

    def require_doable(self, networks: Models) -> None:
        """Refuse rows that networks cannot do, before hours of work for the others.

        Raises:
            ManifestError: Some ask for more style channels than there are, name mappers that cannot
                be used, or have prompts that are too long for CLIP: of a table the message has the
                first 20 with their rows.
            EditError: The same of what is in no table.
        """
        limits = NetworkLimits(lambda: networks)
        mistakes = chain(
            limits.of_channels(self.num_channels),
            chain.from_iterable(limits.of_prompt(prompt, "") for prompt in self.long_prompts),
            chain.from_iterable(map(limits.of_mapper, self.mapper_uris)),
        )
        if any(mistakes):
            # Each with its row.
            for _ in self.read(limits):
                pass

    def require_unchanged(self, manifest: Manifest) -> None:
        """Refuse a manifest that was replaced since it was surveyed.

        Raises:
            RunError: It has other rows now.
        """
        if manifest.version() == self.version:
            return
        if manifest_card(map(row_hashes, manifest)) != self.card:
            raise RunError(
                f"manifest: got {manifest.url} with other rows than when this command began, "
                "expected the same; another command may have written it: give this one again"
            )


def survey_manifest(manifest: str) -> Survey:
    """Find out what the rows of a manifest need.

    Raises:
        ManifestError: It is not there, has no rows, or a row has a mistake.
    """
    methods, wanted = set[str](), dict[tuple[str, str | None], None]()
    uris, num_channels, hashes = dict[str, None](), 0, list[NDArray[np.uint64]]()
    long_prompts = set[str]()
    version = Manifest(manifest).version()
    for batch in stream_manifest(manifest):
        hashes.append(row_hashes(batch))
        methods.update(batch["method"].to_pylist())
        num_channels = max(num_channels, pc.max(batch["num_channels"]).as_py() or 0)
        for name in PROMPTS:
            chosen = pc.greater(pc.binary_length(batch[name]), SHORT_PROMPT)
            long_prompts.update(pc.unique(batch[name].filter(chosen)).to_pylist())
        rows = batch.filter(pc.equal(batch["method"], "mapper"))
        columns = (rows[name].to_pylist() for name in ("mapper_uri", "target_prompt", "options"))
        for uri, prompt, options in zip(*columns, strict=True):
            if uri is None:
                wanted[prompt, options] = None
            else:
                uris[uri] = None
    needs = (methods, _trainings(wanted), [*uris])
    read, longest = partial(stream_manifest, manifest), frozenset(long_prompts)
    return Survey(*needs, read, num_channels, longest, manifest_card(hashes), version)


def survey_prompts(asked: Iterable[Instruction], table: str = "") -> Survey:
    """Find out what instructions need, as the rows of a manifest would.

    Args:
        asked: The instructions.
        table: URL of the table that they are from, if they are from one.
    """
    prompts = [*asked]
    mappers = [one for one in prompts if one.method == "mapper"]
    wanted = dict.fromkeys((m.target_prompt, m.options) for m in mappers if m.mapper_uri is None)
    uris = dict.fromkeys(m.mapper_uri for m in mappers if m.mapper_uri is not None)
    width = max((one.num_channels or 0 for one in prompts), default=0)
    methods: set[str] = {one.method for one in prompts}
    longest = frozenset(
        filter(is_long, (getattr(one, name) for one in prompts for name in PROMPTS))
    )
    read = partial(read_prompts, table) if table else partial(_refuse, prompts)
    return Survey(methods, _trainings(wanted), [*uris], read, width, longest)


def require_doable_edits(
    folder: Folder,
    needs: Survey,
    rows: Iterable[pa.RecordBatch],
    settings: RunSettings,
    networks: Models,
    relevance: RelevanceConfig | None,
    update: bool,
) -> None:
    """Refuse what a run cannot do, before anything is made for it.

    Args:
        folder: Of the run.
        needs: Of its rows.
        rows: The rows, which are read again where others are refused.
        settings: What it is asked to be made with.
        networks: That it is asked to be made with.
        relevance: How its directions are measured; None where it needs none.
        update: Whether it goes on with what can be computed again.

    Raises:
        ManifestError, EditError: See `Survey.require_doable`.
        ConfigError: A mapper that a row names cannot be used any more.
        RunError: The run was begun with something else and is not to be updated.
    """
    check_run(folder, settings, networks, relevance, update)
    if not update and needs.card:
        require_same_manifest(folder, needs.card, rows)
    if update or not read_card(folder):
        needs.require_doable(networks)
    else:
        # All else was checked when the run was begun, and does not go away.
        require_mappers(needs.mapper_uris, networks)


def images_without_latents(rows: Iterable[pa.RecordBatch], store: LatentStore) -> Counter[str]:
    """Return the images without a latent that rows name, and how many rows name each."""
    known, lacking = {*store.image_ids()}, Counter[str]()
    for batch in rows:
        for name, count in Counter(batch["image_id"].to_pylist()).items():
            if name not in known:
                lacking[name] += count
    return lacking


def _refuse(prompts: Iterable[Instruction], limits: Limits) -> Iterable[object]:
    mistakes = dict.fromkeys(mistake for prompt in prompts for mistake in limits(prompt))
    if mistakes:
        raise EditError(tuple(mistakes))
    return ()


def _trainings(wanted: Iterable[tuple[str, str | None]]) -> list[tuple[str, MapperConfig]]:
    """Prompts with options -> prompts with settings."""
    return [(prompt, MapperConfig(**json.loads(options or "{}"))) for prompt, options in wanted]
