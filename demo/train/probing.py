"""The training of the probe that tells attributes."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from demo.portraits.attributes import RATES
from demo.portraits.sheet import contact_sheet
from demo.train.averaging import WeightAverage
from demo.train.balance import attribute_labels, balanced_accuracies, option_weights
from demo.train.cards import write_card
from demo.train.curve import read_rows
from demo.train.descent import Schedule, descend
from demo.train.device import mixed_precision
from demo.train.probes import Probe, ProbeConfig, save_probe
from demo.train.randomness import step_generator
from demo.train.shards import PortraitShards, to_pictures
from demo.train.trainee import KeptState, PortraitBatches
from demo.train.variation import Variation, blur_pictures, vary_pictures

_TEXT = """A convolutional network that tells the attributes of a portrait. It judges edits, its
features are the space of Fréchet distances; nothing that it judges learned from it. It learned from
renders of `demo/portraits` that were moved a little, mirrored, blurred, tinted and made noisy,
every option of an attribute weighing the same.
Made by `python -m demo.train probes`; weights are stored in half precision."""


@dataclass(frozen=True)
class ProbeTraining:
    """How to train a probe.

    Attributes:
        architecture: The network.
        batch: Pictures in a step.
        variation: How far pictures are changed before they are seen.
        schedule: Learning rates of AdamW.
        weight_decay: That of AdamW.
        seed: Names the run: initial weights, batches, changes.
    """

    architecture: ProbeConfig = field(default_factory=ProbeConfig)
    batch: int = 64
    variation: Variation = field(default_factory=Variation)
    schedule: Schedule = field(default_factory=lambda: Schedule(3e-3, hold=800))
    weight_decay: float = 0.05
    seed: int = 0


class ProbeTrainee(KeptState):
    """Train a Probe by cross-entropy, one term an attribute.

    Args:
        config: How.
        shards: Portraits to learn from.
        held_out: Portraits to be judged by.
        device: Where to train.
    """

    figures = ("loss", "heldout_error", "heldout_error_blurred")

    def __init__(
        self,
        config: ProbeTraining,
        shards: PortraitShards,
        held_out: PortraitShards,
        device: torch.device,
    ) -> None:
        self.samples_per_step = config.batch
        self._config, self._device = config, device
        self._batches = PortraitBatches(shards, config.batch, config.seed, device)
        torch.manual_seed(config.seed)
        self._model = Probe(config.architecture).to(device)
        # A short memory: the batch norms' statistics are those of the latest weights.
        self._averaging = WeightAverage(self._model, decay=0.995)
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), weight_decay=config.weight_decay
        )
        self._weights = {
            name: option_weights(labels, len(RATES[name])).to(device)
            for name, labels in attribute_labels(shards.parameters).items()
        }
        self.pictures = to_pictures(held_out.levels(torch.arange(len(held_out)))).to(device)
        self._labels = attribute_labels(held_out.parameters.to(device))
        super().__init__(
            model=self._model, average=self._averaging.average, optimizer=self._optimizer
        )

    @property
    def probe(self) -> Probe:
        """The averaged probe."""
        return self._averaging.average

    def step(self, index: int) -> Tensor:
        """Learn from one batch."""
        parameters, pictures = self._batches.draw(index)
        draw = step_generator(self._config.seed + 1, index)
        with mixed_precision(self._device):
            logits = self._model(vary_pictures(pictures, self._config.variation, draw))
        labels = attribute_labels(parameters)
        terms = [
            F.cross_entropy(logits[name].float(), labels[name], self._weights[name])
            for name in labels
        ]
        loss = torch.stack(terms).mean()
        descend(self._optimizer, loss, self._config.schedule.at(index))
        self._averaging.update(self._model, index)
        return loss

    def evaluate(self) -> dict[str, float]:
        """Return the mean balanced error over the attributes, of renders and of blurred renders."""
        blurred = self.accuracies(blur_pictures(self.pictures))
        return {
            "heldout_error": 1 - _mean(self.accuracies(self.pictures)),
            "heldout_error_blurred": 1 - _mean(blurred),
        }

    def accuracies(self, pictures: Tensor, batch: int = 128) -> dict[str, float]:
        """Return each attribute's balanced accuracy for versions of the held-out pictures."""
        parts = [self.probe.predict(part) for part in torch.split(pictures, batch)]
        told = {name: torch.cat([part[name] for part in parts]) for name in self._labels}
        return balanced_accuracies(told, self._labels)

    def draw_sheet(self) -> Image.Image:
        """Show, a row an attribute, held-out portraits that are told wrong, at most ten."""
        told, rows = self.probe.predict(self.pictures), []
        for name, labels in self._labels.items():
            wrong = self.pictures[told[name] != labels][:10].cpu()
            rows += [wrong, wrong.new_ones(10 - len(wrong), *self.pictures.shape[1:])]
        return contact_sheet(torch.cat(rows), columns=10)


def export_probe(trainee: ProbeTrainee, models: Path, runs: Path, shards: PortraitShards) -> Path:
    """Write `probes.safetensors` and its card.

    Args:
        trainee: Holds the probe.
        models: Folder to write to.
        runs: Folder with the curve of the stage.
        shards: What it learned from.

    Returns:
        The file of weights.
    """
    path = models / "probes.safetensors"
    save_probe(trainee.probe, path)
    facts: dict[str, object] = {
        "pictures": f"{len(shards)} renders of {shards.size} px, series {shards.card}",
        "parameters": sum(p.numel() for p in trainee.probe.parameters()),
        "file": f"{path.stat().st_size / 1e6:.1f} MB",
    }
    row = read_rows(runs / "probes" / "curve.jsonl")[-1]
    facts |= {name: f"{row[name]:.6g}" for name in ("step", "samples", "minutes")}
    blurred = trainee.accuracies(blur_pictures(trainee.pictures))
    for name, sharp in trainee.accuracies(trainee.pictures).items():
        told = f"{100 * sharp:.1f} % ({100 * blurred[name]:.1f} % when blurred)"
        facts[f"balanced accuracy, {name}"] = told
    write_card(path.with_suffix(".md"), "Demo probes", _TEXT, facts)
    return path


def _mean(accuracies: dict[str, float]) -> float:
    return sum(accuracies.values()) / len(accuracies)
