"""What edits need beside networks and latents, from the rows that ask for them."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from manifests.errors import ManifestError, shown
from manifests.instructions import Instruction
from styleclip_ops.generator import Generator
from tasks.directions import RelevanceConfig
from tasks.frozen import manifest_card, read_card, require_same_manifest, row_hashes
from tasks.latents import LatentStore
from tasks.manifest_files import Manifest, stream_manifest
from tasks.mappers import MapperConfig, require_mappers
from tasks.models import Models
from tasks.runs import RunError, RunSettings, check_run
from tasks.store.folders import Folder

_PROMPTS = ("neutral_prompt", "target_prompt")
# A token is a byte at least, and every published CLIP takes more of them.
_SHORT_PROMPT = 30


class Survey(NamedTuple):
    """What the rows of a manifest need.

    Attributes:
        methods: Those that they use.
        mappers: Prompts and settings of the mappers that are to be trained.
        mapper_uris: Mappers that they name.
        num_channels: The most style channels that one asks for; 0 where none says how many.
        widest: Which one that is, in words.
        long_prompts: Those that may have more tokens than CLIP takes.
        card: Of the rows, see `tasks.frozen.manifest_card`; None of prompts.
        version: Of the file when it was read.
    """

    methods: set[str]
    mappers: list[tuple[str, MapperConfig]]
    mapper_uris: list[str]
    num_channels: int = 0
    widest: str = ""
    long_prompts: frozenset[str] = frozenset()
    card: Mapping[str, Any] | None = None
    version: str = ""

    def require_doable(self, networks: Models) -> None:
        """Refuse rows that networks cannot do, before hours of work for the others.

        Raises:
            ManifestError: One asks for more style channels than there are.
            ConfigError: A mapper that one names cannot be used, or a prompt is too long for CLIP.
        """
        if self.num_channels:
            self._require_channels(networks.generator)
        require_mappers(self.mapper_uris, networks)
        for prompt in sorted(self.long_prompts):
            for clip in (networks.clip, networks.judge):
                clip.tokenize([prompt])

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

    def _require_channels(self, generator: Generator) -> None:
        most = len(generator.layout.editable_channels)
        if self.num_channels > most:
            raise ManifestError(
                f"{self.widest}: num_channels: got {self.num_channels}, expected at most {most}, "
                "the editable style channels of this generator; give less, or another --models"
            )


def survey_manifest(manifest: str) -> Survey:
    """Find out what the rows of a manifest need.

    Raises:
        ManifestError: It is not there, has no rows, or a row has a mistake.
    """
    methods, wanted = set[str](), dict[tuple[str, str | None], None]()
    uris, num_channels, hashes = dict[str, None](), 0, list[NDArray[np.uint64]]()
    widest, long_prompts = "", set[str]()
    version = Manifest(manifest).version()
    for batch in stream_manifest(manifest):
        hashes.append(row_hashes(batch))
        methods.update(batch["method"].to_pylist())
        most = pc.max(batch["num_channels"])
        if (most.as_py() or 0) > num_channels:
            num_channels, place = most.as_py(), pc.index(batch["num_channels"], most).as_py()
            widest = f"{batch['image_id'][place]}, {shown(batch['target_prompt'][place].as_py())}"
        for name in _PROMPTS:
            is_long = pc.greater(pc.binary_length(batch[name]), _SHORT_PROMPT)
            long_prompts.update(pc.unique(batch[name].filter(is_long)).to_pylist())
        rows = batch.filter(pc.equal(batch["method"], "mapper"))
        columns = (rows[name].to_pylist() for name in ("mapper_uri", "target_prompt", "options"))
        for uri, prompt, options in zip(*columns, strict=True):
            if uri is None:
                wanted[prompt, options] = None
            else:
                uris[uri] = None
    card = manifest_card(hashes)
    width = (num_channels, widest)
    longest = frozenset(long_prompts)
    return Survey(methods, _trainings(wanted), [*uris], *width, longest, card, version)


def survey_prompts(asked: Iterable[Instruction]) -> Survey:
    """Find out what instructions need, as the rows of a manifest would."""
    prompts = [*asked]
    mappers = [one for one in prompts if one.method == "mapper"]
    wanted = dict.fromkeys((m.target_prompt, m.options) for m in mappers if m.mapper_uri is None)
    uris = dict.fromkeys(m.mapper_uri for m in mappers if m.mapper_uri is not None)
    widths = [(one.num_channels or 0, shown(one.target_prompt)) for one in prompts]
    methods: set[str] = {one.method for one in prompts}
    texts = {getattr(one, name) for one in prompts for name in _PROMPTS}
    longest = frozenset(text for text in texts if len(text.encode()) > _SHORT_PROMPT)
    return Survey(methods, _trainings(wanted), [*uris], *max(widths, default=(0, "")), longest)


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
        ManifestError, ConfigError: See `Survey.require_doable`.
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


def _trainings(wanted: Iterable[tuple[str, str | None]]) -> list[tuple[str, MapperConfig]]:
    """Prompts with options -> prompts with settings."""
    return [(prompt, MapperConfig(**json.loads(options or "{}"))) for prompt, options in wanted]
