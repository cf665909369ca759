"""What trainees share: their state, and the portraits that generators learn from."""

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from demo.train.held_out import Drawer, HeldOut
from demo.train.randomness import step_generator
from demo.train.shards import PortraitShards, level_source, to_pictures


class KeptState:
    """Keep the parts of a trainee whose state a checkpoint holds.

    Args:
        parts: Networks, averages of networks and optimizers, by the names that checkpoints use.
    """

    def __init__(self, **parts: nn.Module | torch.optim.Optimizer) -> None:
        self._parts = parts

    def state(self) -> dict[str, Any]:
        """Return the state of every part, as tensors and plain values."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        for name, part in self._parts.items():
            part.load_state_dict(state[name])


class PortraitBatches:
    """Draw batches of portraits: those of a step depend on the step and the seed only.

    Args:
        shards: Portraits to draw from.
        batch: Portraits in a batch.
        seed: Names the series of batches.
        device: Where they are wanted.
    """

    def __init__(self, shards: PortraitShards, batch: int, seed: int, device: torch.device) -> None:
        self.size, self.num_parameters = shards.size, shards.parameters.shape[1]
        self._levels, self._length = level_source(shards, device), len(shards)
        self._parameters = shards.parameters.to(device)
        self._batch, self._seed = batch, seed

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the parameters [B, P] and pictures [B, 3, size, size] of step `step`."""
        return self.parameters(step), to_pictures(self._levels(self._rows(step)))

    def parameters(self, step: int) -> Tensor:
        """Return the parameters [B, P] of step `step` without their pictures."""
        return self._parameters[self._rows(step).to(self._parameters.device)]

    def _rows(self, step: int) -> Tensor:
        generator = step_generator(self._seed, step)
        return torch.randint(self._length, (self._batch,), generator=generator)


class PictureTrainee(KeptState):
    """Judge a network that draws portraits from their parameters.

    Args:
        drawer: The averaged network.
        held_out: Portraits to be judged by.
        parts: See `KeptState`.
    """

    figures = ("loss", "heldout_l1")

    def __init__(
        self, drawer: Drawer, held_out: HeldOut, **parts: nn.Module | torch.optim.Optimizer
    ) -> None:
        super().__init__(**parts)
        self._drawer, self._held_out = drawer, held_out

    def evaluate(self) -> dict[str, float]:
        """Return the mean absolute difference to held-out portraits, on the scale [-1, 1]."""
        return {"heldout_l1": self._held_out.l1(self._drawer)}

    def draw_sheet(self) -> Image.Image:
        """Show held-out portraits above what is drawn from their parameters."""
        return self._held_out.sheet(self._drawer)
