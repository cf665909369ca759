"""The adversarial finish of the synthesis network, for machines with an accelerator."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from demo.train.averaging import WeightAverage
from demo.train.descent import Schedule, descend
from demo.train.device import mixed_precision
from demo.train.discriminator import Discriminator
from demo.train.held_out import HeldOut
from demo.train.losses import reconstruction_loss
from demo.train.shards import PortraitShards
from demo.train.synthesis import ConditionedGenerator
from demo.train.trainee import PictureTrainee, PortraitBatches


@dataclass(frozen=True)
class FinishConfig:
    """How to finish.

    Attributes:
        batch: Pictures in a step.
        schedule: Learning rates of both networks.
        adversarial: Weight of the non-saturating loss beside the reconstruction loss.
        r1_gamma: Weight of the gradient penalty R1 on renders (Mescheder et al., ICML 2018).
        r1_every: Steps between penalties (lazy regularisation, Karras et al., CVPR 2020).
        seed: Names the run.
    """

    batch: int = 32
    schedule: Schedule = field(default_factory=lambda: Schedule(1e-3))
    adversarial: float = 0.02
    r1_gamma: float = 1.0
    r1_every: int = 16
    seed: int = 0


class FinishTrainee(PictureTrainee):
    """Sharpen a ConditionedGenerator against a discriminator; its map to w stays as it is.

    Args:
        config: How.
        conditioned: The generator to begin with; it is changed.
        shards: Portraits to learn from.
        held_out: Portraits to be judged by.
        device: Where to train.
    """

    def __init__(
        self,
        config: FinishConfig,
        conditioned: ConditionedGenerator,
        shards: PortraitShards,
        held_out: PortraitShards,
        device: torch.device,
    ) -> None:
        self.samples_per_step = config.batch
        self._config, self._device = config, device
        self._batches = PortraitBatches(shards, config.batch, config.seed, device)
        torch.manual_seed(config.seed)
        self._judge = Discriminator(conditioned.generator.config.channels).to(device)
        self._model = conditioned.to(device).train()
        self._model.generator.synthesis.requires_grad_(True)
        self._averaging = WeightAverage(self._model)
        drawing = self._model.generator.synthesis.parameters()
        self._optimizer = torch.optim.Adam(drawing, betas=(0.0, 0.99), eps=1e-8)
        self._judging = torch.optim.Adam(self._judge.parameters(), betas=(0.0, 0.99), eps=1e-8)
        super().__init__(
            self._averaging.average,
            HeldOut(held_out, device),
            model=self._model,
            judge=self._judge,
            average=self._averaging.average,
            optimizer=self._optimizer,
            judging=self._judging,
        )

    def step(self, index: int) -> Tensor:
        """Learn from one batch: first the discriminator, then the generator."""
        parameters, wanted = self._batches.draw(index)
        with mixed_precision(self._device):
            drawn = self._model(parameters)
        rate = self._config.schedule.at(index)
        descend(self._judging, self._judge_loss(wanted, drawn.detach().float(), index), rate)
        loss = reconstruction_loss(drawn, wanted)
        with mixed_precision(self._device):
            scores = self._judge(drawn)
        loss = loss + self._config.adversarial * F.softplus(-scores.float()).mean()
        descend(self._optimizer, loss, rate)
        self._averaging.update(self._model, index)
        return loss

    def _judge_loss(self, wanted: Tensor, drawn: Tensor, index: int) -> Tensor:
        """Logistic loss of the discriminator, with R1 every `r1_every` steps."""
        with mixed_precision(self._device):
            scores = self._judge(torch.cat([wanted, drawn])).float()
        loss = F.softplus(torch.cat([-scores[: len(wanted)], scores[len(wanted) :]])).mean() * 2
        if index % self._config.r1_every:
            return loss
        renders = wanted.requires_grad_(True)
        (slope,) = torch.autograd.grad(self._judge(renders).sum(), renders, create_graph=True)
        penalty = slope.square().sum(dim=(1, 2, 3)).mean() * self._config.r1_gamma / 2
        return loss + penalty * self._config.r1_every
