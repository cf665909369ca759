"""The synthesis network: from the parameters of portraits, through w, to their pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from demo.train.averaging import WeightAverage
from demo.train.descent import Schedule, descend
from demo.train.device import mixed_precision
from demo.train.judging import HeldOut
from demo.train.losses import PictureLoss, reconstruction_loss
from demo.train.networks import ParameterToW
from demo.train.randomness import step_generator
from demo.train.shards import PortraitShards, level_source, to_pictures
from styleclip_ops.generator import Generator, GeneratorConfig


@dataclass(frozen=True)
class SynthesisConfig:
    """How to train the synthesis network.

    Attributes:
        channels: Feature channels at 4, 8, ... px up to the size of the pictures.
        batch: Pictures in a step.
        schedule: Learning rates of Adam.
        seed: Names the run: initial weights and batches.
    """

    channels: tuple[int, ...]
    batch: int = 32
    schedule: Schedule = field(default_factory=lambda: Schedule(1e-2))
    seed: int = 0


class ConditionedGenerator(nn.Module):
    """A generator whose w comes from parameter vectors; its mapping network is not used."""

    def __init__(self, config: GeneratorConfig, num_parameters: int) -> None:
        super().__init__()
        self.generator = Generator(config)
        self.generator.mapping.requires_grad_(False)
        self.parameter_to_w = ParameterToW(num_parameters, config.w_dim)

    def forward(self, parameters: Tensor) -> Tensor:
        """Map [N, P] to pictures [N, 3, size, size], about [-1, 1]."""
        w = self.parameter_to_w(parameters)
        # Noise has strength 0 and is left out: what varies in the portraits is in w.
        return self.generator.synthesize(
            self.generator.w_plus_to_s(self.generator.w_to_w_plus(w)), noise_mode="none"
        )


class SynthesisTrainee:
    """Train a ConditionedGenerator to draw portraits from their parameters.

    Args:
        config: How.
        shards: Portraits to learn from.
        held_out: Portraits to be judged by.
        device: Where to train.
        perceptual: A further loss, see `demo.train.losses.reconstruction_loss`.
    """

    figures = ("loss", "heldout_l1")

    def __init__(
        self,
        config: SynthesisConfig,
        shards: PortraitShards,
        held_out: PortraitShards,
        device: torch.device,
        perceptual: PictureLoss | None = None,
    ) -> None:
        self.samples_per_step = config.batch
        self._config, self._device, self._perceptual = config, device, perceptual
        self._levels, self._length = level_source(shards, device), len(shards)
        self._parameters = shards.parameters.to(device)
        self._held_out = HeldOut(held_out, device)
        self._model = self._build(shards).to(device)
        self._average = WeightAverage(self._model)
        trained = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.Adam(trained, betas=(0.9, 0.99), eps=1e-8)

    def step(self, index: int) -> Tensor:
        """Learn from one batch."""
        draw = step_generator(self._config.seed, index)
        rows = torch.randint(self._length, (self._config.batch,), generator=draw)
        wanted = to_pictures(self._levels(rows))
        with mixed_precision(self._device):
            predicted = self._model(self._parameters[rows.to(self._device)])
        loss = reconstruction_loss(predicted, wanted, self._perceptual)
        descend(self._optimizer, loss, self._config.schedule.at(index))
        self._average.update(self._model, index)
        return loss

    def evaluate(self) -> dict[str, float]:
        """Return the mean absolute difference to held-out portraits, on the scale [-1, 1]."""
        return {"heldout_l1": self._held_out.l1(self._average.average)}

    def draw_sheet(self) -> Image.Image:
        """Show held-out portraits above what is drawn from their parameters."""
        return self._held_out.sheet(self._average.average)

    def state(self) -> dict[str, Any]:
        """Return the weights, their averages and the optimizer's state."""
        return {
            "model": self._model.state_dict(),
            "average": self._average.average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._model.load_state_dict(state["model"])
        self._average.average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _build(self, shards: PortraitShards) -> ConditionedGenerator:
        torch.manual_seed(self._config.seed)
        architecture = GeneratorConfig(self._config.channels)
        if architecture.resolution != shards.size:
            raise ValueError(
                f"channels: got {len(self._config.channels)} for {architecture.resolution} px, "
                f"expected those of the portraits' {shards.size} px"
            )
        return ConditionedGenerator(architecture, shards.parameters.shape[1])


def load_conditioned(state: Mapping[str, Any]) -> ConditionedGenerator:
    """Rebuild the averaged generator from the state of a SynthesisTrainee."""
    weights = state["average"]
    channels = [
        weights[f"generator.synthesis.b{4 << i}.conv1.weight"].shape[0]
        for i in range(16)
        if f"generator.synthesis.b{4 << i}.conv1.weight" in weights
    ]
    num_parameters = weights["parameter_to_w.layers.0.weight"].shape[1]
    model = ConditionedGenerator(GeneratorConfig(tuple(channels)), num_parameters)
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)
