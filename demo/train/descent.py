"""Gradient descent at a rate that depends on the step, whatever the length of the run."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """A learning rate that rises, holds, and falls as 1 / sqrt(step).

    Attributes:
        rate: The rate held.
        warmup: Steps over which it rises from 0.
        hold: Step from which it falls.
    """

    rate: float
    warmup: int = 50
    hold: int = 4000

    def at(self, step: int) -> float:
        """Return the rate of step `step`, from 0."""
        falling = math.sqrt(self.hold / max(step, self.hold))
        return self.rate * min(1.0, (step + 1) / self.warmup) * falling


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    """Make one step of `optimizer` down the gradient of the scalar `loss`."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimizer.step()
