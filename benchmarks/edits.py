"""Bulk edits against the bare forwards that they cannot avoid, and against one row at a time.

Bare: synthesis, the judge's CLIP and the identity network on the same batches, nothing read and
nothing written. One after the other: load, synthesize, score, save, as the published scripts do it.
At 64 px a row takes hundredths of a second, so that what is done once for each shard shows; at
256 px and published widths it takes half a second.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.networks import write_large_bundle
from benchmarks.paired import Ratio, compare
from flows.relevance import build_relevance
from manifests.building import instructions
from styleclip_ops.direction import apply_direction, style_direction, text_direction
from styleclip_ops.metrics import cosine_similarity
from styleclip_ops.pictures import tensor_to_images
from tasks.bundles import DEMO_MODELS
from tasks.directions import (
    DirectionStore,
    RelevanceConfig,
    direction_folder,
)
from tasks.edits import edit_pairs_shard
from tasks.frozen import freeze_manifest
from tasks.interchange import Import, PublishedDirections, keep_directions, plan_import
from tasks.inversion import invert_faces_shard
from tasks.latents import LatentStore, latent_folder
from tasks.manifest_files import Manifest, build_manifest
from tasks.models import Models, open_models
from tasks.runs import open_run, run_folder, run_ledger, settings_for
from tasks.store.folders import Folder

PROMPTS = ("a smiling face", "a face with glasses", "a face with red hair", "an old face")
ALPHAS = (2.0, 4.0)
NUM_CHANNELS = 20
BATCH = 8
_RELEVANCE = RelevanceConfig(num_images=1, num_statistics=500, mode="fast")
# Random directions cost an edit what measured ones do.
_RANDOM = RelevanceConfig(num_statistics=500, mode="imported")


@dataclass(frozen=True)
class Job:
    """A workspace with latents, directions and a manifest of every image with every edit.

    Attributes:
        folder: Of everything.
        images: How many there are.
        models: URL of the bundle.
        relevance: How directions are measured; imported ones are drawn at random.
        device: Where the networks run.
    """

    folder: Path
    images: int
    models: str = DEMO_MODELS
    relevance: RelevanceConfig = _RELEVANCE
    device: str = "cpu"

    @property
    def workspace(self) -> str:
        """Its URL."""
        return str(self.folder / "ws")

    @property
    def manifest(self) -> str:
        """URL of the manifest."""
        return str(self.folder / "edits.parquet")

    @property
    def networks(self) -> Models:
        """Those of the bundle."""
        return open_models(self.models, self.device)

    @property
    def directions(self) -> DirectionStore:
        """The store that edits use."""
        folder = direction_folder(Folder(self.workspace), self.networks, self.relevance)
        return DirectionStore(folder)

    def prepare(self) -> None:
        """Make latents of random faces, directions, and the manifest."""
        generator = self.networks.generator
        random = torch.Generator().manual_seed(3)
        z = torch.randn(self.images, generator.config.z_dim, generator=random)
        with torch.no_grad():
            w_plus = generator.w_to_w_plus(generator.mapping(z.to(generator.w_avg)), 0.7)
        names = [f"face-{index:04d}" for index in range(self.images)]
        place, given = self.workspace, (self.models, self.device)
        latents = Import(w_plus.cpu().numpy(), names)
        np.save(self.folder / "latents.npy", latents.w_plus)
        for shard in plan_import(place, latents, *given, 256):
            invert_faces_shard(place, *given, shard, BATCH)
        if self.relevance.mode == "imported":
            networks = self.networks
            channels = len(networks.generator.layout.editable_channels)
            drawn = torch.randn(channels, networks.clip.embedding_dim, generator=random)
            published = PublishedDirections("drawn", F.normalize(drawn, dim=1), channels)
            keep_directions(place, published, *given, self.relevance)
        else:
            build_relevance.fn(
                place, models=self.models, relevance=self.relevance, device=self.device
            )
        asked = instructions(PROMPTS, ALPHAS, num_channels=NUM_CHANNELS)
        build_manifest(names, asked, self.manifest)

    def edit(self, runs: Iterator[int], output: Any = "files") -> None:
        """Make all edits in a new run, as one shard."""
        folder = run_folder(self.workspace, f"run-{next(runs)}")
        settings = settings_for(self.workspace, self.models, self.device, "png", output)
        open_run(folder, settings.with_assets(self.directions, []))
        freeze_manifest(folder, Manifest(self.manifest), 4_096)
        for shard in run_ledger(folder).pending():
            edit_pairs_shard(folder.url, self.device, shard, batch_size=BATCH)

    def style_codes(self) -> list[Tensor]:
        """Edited style codes of all rows, in batches."""
        networks, read = self.networks, self.directions.read()
        store = LatentStore(latent_folder(Folder(self.workspace), networks))
        stored = torch.from_numpy(store.read(range(self.images)).w_plus).to(networks.device)
        with torch.no_grad():
            s, layout = networks.generator.w_plus_to_s(stored), networks.generator.layout
            found = []
            for prompt in PROMPTS:
                text = text_direction(networks.clip, "a face", prompt).cpu()
                direction = style_direction(
                    read.channel_clip_directions,
                    text,
                    read.channel_std,
                    layout,
                    num_channels=NUM_CHANNELS,
                ).to(s)
                found += [apply_direction(s, direction, alpha) for alpha in ALPHAS]
        codes = torch.cat(found)
        return [codes[start : start + BATCH] for start in range(0, len(codes), BATCH)]


def run(device: str = "cpu") -> Iterator[Ratio]:
    """Compare on 128 rows of the demo's networks, and on 64 rows of a generator of 256 px."""
    with tempfile.TemporaryDirectory() as folder:
        job = Job(Path(folder), 16, device=device)
        job.prepare()
        codes, runs = job.style_codes(), count()
        edit, rows = partial(job.edit, runs), f"{len(codes) * BATCH} rows"
        yield compare(
            f"bulk edits, {rows}: against bare forwards (limit 1)",
            edit,
            partial(bare, job.networks, codes),
            5,
            same_memory=True,
        )
        plain = partial(one_by_one, job, codes)
        yield compare(f"bulk edits, {rows}: against load, synthesize, score, save", edit, plain, 3)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(Path(folder), 8, write_large_bundle(Path(folder)), _RANDOM, device)
        job.prepare()
        codes = job.style_codes()
        yield compare(
            f"bulk edits, {len(codes) * BATCH} rows, 256 px: against bare forwards (limit 1)",
            partial(job.edit, count()),
            partial(bare, job.networks, codes),
            3,
            same_memory=True,
        )


@torch.no_grad()
def bare(networks: Models, codes: Sequence[Tensor]) -> None:
    """Run the forwards of batches of style codes."""
    for batch in codes:
        images = networks.generator.synthesize(batch)
        networks.judge.embed_images(images)
        networks.identity.embed(images)


@torch.no_grad()
def one_by_one(job: Job, codes: Sequence[Tensor]) -> None:
    """Edit row by row: nothing is shared or overlaps."""
    networks, place = job.networks, job.folder / "plain"
    place.mkdir(exist_ok=True)
    latents = np.load(job.folder / "latents.npy")
    for index, s in enumerate(code for batch in codes for code in batch):
        w_plus = torch.from_numpy(latents[index % job.images]).to(networks.device)
        source = networks.generator(w_plus[None])
        image = networks.generator.synthesize(s[None])
        texts = networks.judge.embed_texts([PROMPTS[index % len(PROMPTS)], "a face"])
        for picture in (source, image):
            cosine_similarity(networks.judge.embed_images(picture), texts[:1])
        cosine_similarity(networks.identity.embed(image), networks.identity.embed(source))
        tensor_to_images(image)[0].save(place / f"{index}.png")
