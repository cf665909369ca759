"""Exponential moving averages of weights."""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class WeightAverage(Generic[M]):
    """Average the weights of a module while it is trained.

    Args:
        module: The module; its buffers are copied, not averaged.
        decay: Weight of the past in the long run; early steps forget sooner.
    """

    def __init__(self, module: M, decay: float = 0.999) -> None:
        self.average = copy.deepcopy(module).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, module: M, step: int) -> None:
        """Take in the weights after step number `step` (from 0)."""
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([*self.average.parameters()], [*module.parameters()], share)
        for mine, theirs in zip(self.average.buffers(), module.buffers(), strict=True):
            mine.copy_(theirs)
