"""The synthesis network: from the parameters of portraits, through w, to their pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from demo.train.averaging import WeightAverage
from demo.train.descent import Schedule, descend
from demo.train.device import mixed_precision
from demo.train.held_out import HeldOut
from demo.train.losses import reconstruction_loss
from demo.train.networks import ParameterToW
from demo.train.shards import PortraitShards
from demo.train.trainee import PictureTrainee, PortraitBatches
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
        return self.draw(self.w_plus(parameters))

    def w_plus(self, parameters: Tensor) -> Tensor:
        """Map [N, P] to latents [N, num_ws, w_dim]."""
        return self.generator.w_to_w_plus(self.parameter_to_w(parameters))

    def draw(self, w_plus: Tensor) -> Tensor:
        """Map latents [N, num_ws, w_dim] to pictures [N, 3, size, size], about [-1, 1]."""
        # Noise has strength 0 and is left out: what varies in the portraits is in w.
        return self.generator.synthesize(self.generator.w_plus_to_s(w_plus), noise_mode="none")


class RegressionTrainee(PictureTrainee):
    """Train what requires gradients of a ConditionedGenerator to draw given pictures.

    Args:
        model: The generator; it is changed.
        schedule: Learning rates of Adam.
        held_out: Portraits to be judged by.
        device: Where the generator is.
    """

    def __init__(
        self,
        model: ConditionedGenerator,
        schedule: Schedule,
        held_out: PortraitShards,
        device: torch.device,
    ) -> None:
        self._model, self._schedule, self._device = model, schedule, device
        self._averaging = WeightAverage(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.Adam(trained, betas=(0.9, 0.99), eps=1e-8)
        super().__init__(
            self._averaging.average,
            HeldOut(held_out, device),
            model=model,
            average=self._averaging.average,
            optimizer=self._optimizer,
        )

    def learn(self, drawn: Tensor, wanted: Tensor, index: int) -> Tensor:
        """Make step `index` from pictures drawn towards those wanted, and return the loss."""
        loss = reconstruction_loss(drawn, wanted)
        descend(self._optimizer, loss, self._schedule.at(index))
        self._averaging.update(self._model, index)
        return loss


class SynthesisTrainee(RegressionTrainee):
    """Train a ConditionedGenerator to draw portraits from their parameters.

    Args:
        config: How.
        shards: Portraits to learn from.
        held_out: Portraits to be judged by.
        device: Where to train.
        begin: The generator to begin with; a random one where None.
    """

    def __init__(
        self,
        config: SynthesisConfig,
        shards: PortraitShards,
        held_out: PortraitShards,
        device: torch.device,
        begin: ConditionedGenerator | None = None,
    ) -> None:
        self.samples_per_step = config.batch
        self._batches = PortraitBatches(shards, config.batch, config.seed, device)
        model = _build(config, self._batches).to(device)
        # A fifth faster on processors.
        for weight in model.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        if begin is not None:
            model.load_state_dict(begin.state_dict())
        super().__init__(model, config.schedule, held_out, device)

    def step(self, index: int) -> Tensor:
        """Learn from one batch."""
        parameters, wanted = self._batches.draw(index)
        with mixed_precision(self._device):
            drawn = self._model(parameters)
        return self.learn(drawn, wanted, index)


def _build(config: SynthesisConfig, batches: PortraitBatches) -> ConditionedGenerator:
    torch.manual_seed(config.seed)
    architecture = GeneratorConfig(config.channels)
    if architecture.resolution != batches.size:
        raise ValueError(
            f"channels: got {len(config.channels)} for {architecture.resolution} px, "
            f"expected those of the portraits' {batches.size} px"
        )
    return ConditionedGenerator(architecture, batches.num_parameters)


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
