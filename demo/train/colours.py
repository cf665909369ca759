"""The colours of the synthesis network, moved to where edits can reach them.

Global directions leave the styles of the toRGB layers alone (StyleCLIP, section 6). A generator
that learned from parameters keeps hair colours and the tint of glasses there: not even the
difference of the mean styles of portraits with and without them, in all styles that may be edited,
brings them. Here the toRGB styles become constants, and the convolutions learn to draw the same.
"""

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from demo.train.descent import Schedule
from demo.train.device import mixed_precision
from demo.train.randomness import step_generator
from demo.train.shards import PortraitShards
from demo.train.synthesis import ConditionedGenerator, RegressionTrainee
from demo.train.trainee import PortraitBatches

# Portraits whose mean w gives the constants.
_MEAN_OVER = 1024


@dataclass(frozen=True)
class ColoursConfig:
    """How to move them.

    Attributes:
        batch: Pictures in a step.
        mixed: Share of the pictures whose latents have rows of two portraits.
        schedule: Learning rates of Adam.
        seed: Names the run.
    """

    batch: int = 32
    mixed: float = 0.5
    schedule: Schedule = field(default_factory=lambda: Schedule(5e-3, warmup=100, hold=2000))
    seed: int = 0


class ColoursTrainee(RegressionTrainee):
    """Teach a ConditionedGenerator to draw without toRGB styles what it draws with them.

    Its map to w stays as it is, and so does what an encoder learned about it.

    Args:
        config: How.
        teacher: The generator as it is.
        shards: Portraits to draw.
        held_out: Portraits to be judged by.
        device: Where to train.
    """

    def __init__(
        self,
        config: ColoursConfig,
        teacher: ConditionedGenerator,
        shards: PortraitShards,
        held_out: PortraitShards,
        device: torch.device,
    ) -> None:
        self.samples_per_step = config.batch
        self._config = config
        self._batches = PortraitBatches(shards, config.batch, config.seed, device)
        self._teacher = teacher.to(device).requires_grad_(False)
        model = copy.deepcopy(self._teacher)
        model.generator.synthesis.requires_grad_(True)
        fix_rgb_styles(model, shards.parameters[:_MEAN_OVER].to(device))
        super().__init__(model, config.schedule, held_out, device)

    def step(self, index: int) -> Tensor:
        """Learn from one batch of what the teacher draws."""
        with torch.no_grad(), mixed_precision(self._device):
            w_plus = self._teacher.w_plus(self._batches.parameters(index))
            w_plus = self._mix(w_plus, index)
            wanted = self._teacher.draw(w_plus).float()
        with mixed_precision(self._device):
            drawn = self._model.draw(w_plus)
        return self.learn(drawn, wanted, index)

    def _mix(self, w_plus: Tensor, index: int) -> Tensor:
        """Take the later rows of some latents from their neighbours in the batch."""
        draw = step_generator(self._config.seed + 1, index)
        count, rows = int(len(w_plus) * self._config.mixed), w_plus.shape[1]
        first = torch.randint(1, rows, (count, 1, 1), generator=draw).to(w_plus.device)
        later = torch.arange(rows, device=w_plus.device)[:, None] >= first
        mixed = torch.where(later, w_plus.roll(1, dims=0)[:count], w_plus[:count])
        return torch.cat([mixed, w_plus[count:]])


@torch.no_grad()
def fix_rgb_styles(conditioned: ConditionedGenerator, parameters: Tensor) -> None:
    """Make the toRGB styles of a generator those of the mean w of portraits, whatever w is.

    Args:
        conditioned: The generator; its toRGB layers are changed and no longer trained.
        parameters: [N, P] of the portraits.
    """
    generator = conditioned.generator
    mean = conditioned.parameter_to_w(parameters).mean(dim=0, keepdim=True)
    for layer in generator.layout.layers:
        if layer.is_torgb:
            affine = generator.synthesis.style_layer(layer).affine.requires_grad_(False)
            style = affine(mean)[0]
            affine.weight.zero_()
            affine.bias.add_(style - affine(mean)[0])
