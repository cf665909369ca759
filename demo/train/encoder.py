"""The encoder: from crops of faces to the W+ of the demo generator (Tov et al., "e4e", 2021)."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from demo.train.augmentation import FrameJitter, jitter_frames, wear_pictures
from demo.train.averaging import WeightAverage
from demo.train.cards import write_card
from demo.train.curve import read_rows
from demo.train.descent import Schedule, descend
from demo.train.device import mixed_precision
from demo.train.files import replacing
from demo.train.latents import LatentError
from demo.train.losses import reconstruction_loss
from demo.train.networks import halve_weights
from demo.train.randomness import step_generator
from demo.train.reconstruction import (
    AttributeJudge,
    draw_latents,
    invert,
    measure_reconstruction,
)
from demo.train.shards import PortraitShards, to_pictures
from demo.train.sheets import paired_sheet
from demo.train.synthesis import ConditionedGenerator
from demo.train.trainee import KeptState, PortraitBatches
from styleclip_ops.checkpoints import save_safetensors
from styleclip_ops.encoder import E4eConfig, E4eEncoder
from styleclip_ops.ir_se import IrSeConfig
from styleclip_ops.losses import IdentityEmbedder, cosine_distance

_TEXT = """An e4e encoder for the demo generator: a residual network with a head for each row of W+.
It learned from renders of `demo/portraits` and from what the generator draws, whose w are known,
and from portraits cut out of rendered photographs, by what the generator draws of them (L1,
Laplacian pyramid, identity). Frames were moved as much as dlib's landmarks
move them, pictures were blurred and compressed.
Made by `python -m demo.train encoder`; weights are stored in half precision."""

# Latents that the spread of w is measured on.
_SAMPLES = 4096


@dataclass(frozen=True)
class EncoderConfig:
    """How to train the encoder.

    Attributes:
        trunk: The residual network; its last width is that of the style heads too.
        renders: Pictures in a step that are renders of known parameters, hence of known w.
        samples: Those that the generator draws from z, of known w too.
        crops: Those cut from scenes, judged by their reconstruction only.
        pictures: How many, the crops and then renders, are judged by their reconstruction.
        persons: How many of these are judged by the identity network too, which is slow.
        jitter: How far frames are off.
        picture: Weight of the reconstruction loss beside the error in W+ and S.
        identity: Weight of the identity loss.
        delta: Weight of the offsets between the rows of W+, as a share of the variance of w.
        schedule: Learning rates of Adam.
        judged: Held-out pictures that the figures of the curve come from.
        seed: Names the run: initial weights, batches, latents.
    """

    trunk: IrSeConfig = field(default_factory=lambda: IrSeConfig((1, 1, 2, 2), (16, 32, 64, 96)))
    renders: int = 16
    samples: int = 4
    crops: int = 4
    pictures: int = 8
    persons: int = 2
    jitter: FrameJitter = field(default_factory=FrameJitter)
    picture: float = 1.0
    identity: float = 0.3
    delta: float = 0.1
    schedule: Schedule = field(default_factory=lambda: Schedule(2e-3, hold=2000))
    judged: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        most = self.crops + self.renders
        if not self.crops <= self.pictures <= most:
            raise ValueError(f"pictures: got {self.pictures}, expected {self.crops} to {most}")
        if not 1 <= self.persons <= self.pictures:
            raise ValueError(f"persons: got {self.persons}, expected 1 to {self.pictures}")


@dataclass(frozen=True)
class EncoderSources:
    """Hold what an encoder learns from and is judged by.

    Attributes:
        conditioned: The generator, with the mapping network that was trained for it; not changed.
        renders, crops, held_out: Portraits, and portraits before rooms.
        identity: Tells persons.
        probe: Tells attributes, for the figures; nothing learns from it.
    """

    conditioned: ConditionedGenerator
    renders: PortraitShards
    crops: PortraitShards
    held_out: PortraitShards
    identity: IdentityEmbedder
    probe: AttributeJudge


class EncoderTrainee(KeptState):
    """Train an E4eEncoder to invert a generator.

    Args:
        config: How.
        sources: From what; its networks are on `device`.
        device: Where to train.
        begin: The encoder to begin with; a random one where None.
    """

    figures = ("loss", "heldout_l1")

    def __init__(
        self,
        config: EncoderConfig,
        sources: EncoderSources,
        device: torch.device,
        begin: E4eEncoder | None = None,
    ) -> None:
        self.samples_per_step = config.renders + config.samples + config.crops
        self._config, self._sources, self._device = config, sources, device
        self._generator = sources.conditioned.generator
        self._renders = PortraitBatches(sources.renders, config.renders, config.seed, device)
        self._crops = PortraitBatches(sources.crops, config.crops, config.seed + 1, device)
        w = self._sample_w(_SAMPLES, 0)
        self._error, self._w_avg = LatentError(self._generator, w), w.mean(dim=0)
        torch.manual_seed(config.seed)
        size = self._generator.resolution
        architecture = E4eConfig(
            self._generator.num_ws, self._generator.config.w_dim, size, config.trunk
        )
        self._encoder = E4eEncoder(architecture).to(device)
        if begin is not None:
            self._encoder.load_state_dict(begin.state_dict())
        self._encoder.latent_avg.copy_(self._w_avg)
        # A short memory: the batch norms' statistics are those of the latest weights.
        self._average = WeightAverage(self._encoder, decay=0.995)
        self._optimizer = torch.optim.Adam(self._encoder.parameters(), betas=(0.9, 0.99))
        rows = torch.arange(min(config.judged, len(sources.held_out)))
        self._held_out = to_pictures(sources.held_out.levels(rows)).to(device)
        super().__init__(
            encoder=self._encoder, average=self._average.average, optimizer=self._optimizer
        )

    @property
    def encoder(self) -> E4eEncoder:
        """The averaged encoder."""
        return self._average.average

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned, but for the average latent: the generator gives it."""
        super().restore(state)
        for encoder in (self._encoder, self._average.average):
            encoder.latent_avg.copy_(self._w_avg)

    def step(self, index: int) -> Tensor:
        """Learn from one batch."""
        config, draw = self._config, step_generator(self._config.seed, index)
        wanted, w = self._batch(index)
        seen = wear_pictures(jitter_frames(wanted, config.jitter, draw), draw)
        # Processors train a fifth faster with the channels last.
        with mixed_precision(self._device):
            w_plus = self._encoder(seen.contiguous(memory_format=torch.channels_last)).float()
        loss = self._error(w_plus[config.crops :], w)
        loss = loss + config.delta * self._error.share(w_plus - w_plus[:, :1])
        loss = loss + self._picture_loss(w_plus[: config.pictures], wanted[: config.pictures])
        descend(self._optimizer, loss, config.schedule.at(index))
        self._average.update(self._encoder, index)
        return loss

    def evaluate(self) -> dict[str, float]:
        """Return L1, identity cosine and share of attributes kept of held-out portraits."""
        drawn = self._reconstruct(self._held_out)
        figures = measure_reconstruction(
            self._held_out, drawn, self._sources.probe, self._sources.identity
        )
        return {
            "heldout_l1": figures.l1,
            "heldout_identity": figures.identity,
            "heldout_kept": figures.mean_kept,
        }

    def draw_sheet(self) -> Image.Image:
        """Show held-out portraits above their reconstructions."""
        return paired_sheet(self._held_out[:32], self._reconstruct(self._held_out[:32]))

    def _reconstruct(self, pictures: Tensor) -> Tensor:
        return draw_latents(self._generator, invert(self.encoder, pictures))

    @torch.no_grad()
    def _batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Pictures (crops, renders, samples) and the w of the renders and samples."""
        _, crops = self._crops.draw(index)
        parameters, renders = self._renders.draw(index)
        sampled = self._sample_w(self._config.samples, index + 1)
        samples = draw_latents(self._generator, self._generator.w_to_w_plus(sampled))
        w = torch.cat([self._sources.conditioned.parameter_to_w(parameters), sampled])
        return torch.cat([crops, renders, samples]), w

    def _picture_loss(self, w_plus: Tensor, wanted: Tensor) -> Tensor:
        with mixed_precision(self._device):
            drawn = self._generator(w_plus).float()
        identity, persons = self._sources.identity, self._config.persons
        with torch.no_grad():
            source = identity.embed(wanted[:persons])
        distance = cosine_distance(identity.embed(drawn[:persons]), source).mean()
        compared = reconstruction_loss(drawn, wanted)
        return self._config.picture * compared + self._config.identity * distance

    @torch.no_grad()
    def _sample_w(self, num: int, step: int) -> Tensor:
        """Draw z of step `step` and map them to w [num, w_dim]."""
        mapping = self._generator.mapping
        draw = step_generator(self._config.seed + 2, step, self._device)
        w: Tensor = mapping(torch.randn(num, mapping.z_dim, generator=draw, device=self._device))
        return w


def export_encoder(encoder: E4eEncoder, models: Path, runs: Path, sources: EncoderSources) -> Path:
    """Write `encoder.safetensors` and its card.

    Args:
        encoder: The averaged encoder.
        models: Folder to write to.
        runs: Folder with the curve of the stage.
        sources: What it learned from.

    Returns:
        The file of weights.
    """
    path = models / "encoder.safetensors"
    with replacing(path) as part:
        save_safetensors(halve_weights(copy.deepcopy(encoder).cpu()), part)
    renders, crops = sources.renders, sources.crops
    facts: dict[str, object] = {
        "pictures": f"{len(renders)} renders and {len(crops)} crops of {renders.size} px, "
        f"series {renders.card} and {crops.card}",
        "trunk": encoder.config.trunk,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "file": f"{path.stat().st_size / 1e6:.1f} MB",
    }
    for name, value in read_rows(runs / "encoder" / "curve.jsonl")[-1].items():
        facts[name] = f"{value:.6g}"
    write_card(path.with_suffix(".md"), "Demo encoder", _TEXT, facts)
    return path
