"""The adversarial finish of the synthesis network, for machines with an accelerator."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from demo.train.averaging import WeightAverage
from demo.train.descent import Schedule, descend
from demo.train.device import mixed_precision
from demo.train.discriminator import Discriminator
from demo.train.judging import HeldOut
from demo.train.losses import PictureLoss, reconstruction_loss
from demo.train.randomness import step_generator
from demo.train.shards import PortraitShards, level_source, to_pictures
from demo.train.synthesis import ConditionedGenerator


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


class FinishTrainee:
    """Sharpen a ConditionedGenerator against a discriminator; its map to w stays as it is.

    Args:
        config: How.
        conditioned: The generator to begin with; it is changed.
        shards: Portraits to learn from.
        held_out: Portraits to be judged by.
        device: Where to train.
        perceptual: A further loss, see `demo.train.losses.reconstruction_loss`.
    """

    figures = ("loss", "heldout_l1")

    def __init__(
        self,
        config: FinishConfig,
        conditioned: ConditionedGenerator,
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
        torch.manual_seed(config.seed)
        self._judge = Discriminator(conditioned.generator.config.channels).to(device)
        self._model = conditioned.to(device).train()
        self._model.generator.synthesis.requires_grad_(True)
        self._average = WeightAverage(self._model)
        drawing = self._model.generator.synthesis.parameters()
        self._optimizer = torch.optim.Adam(drawing, betas=(0.0, 0.99), eps=1e-8)
        self._judging = torch.optim.Adam(self._judge.parameters(), betas=(0.0, 0.99), eps=1e-8)

    def step(self, index: int) -> Tensor:
        """Learn from one batch: first the discriminator, then the generator."""
        draw = step_generator(self._config.seed, index)
        rows = torch.randint(self._length, (self._config.batch,), generator=draw)
        wanted = to_pictures(self._levels(rows))
        with mixed_precision(self._device):
            drawn = self._model(self._parameters[rows.to(self._device)])
        rate = self._config.schedule.at(index)
        descend(self._judging, self._judge_loss(wanted, drawn.detach().float(), index), rate)
        loss = reconstruction_loss(drawn, wanted, self._perceptual)
        with mixed_precision(self._device):
            scores = self._judge(drawn)
        loss = loss + self._config.adversarial * F.softplus(-scores.float()).mean()
        descend(self._optimizer, loss, rate)
        self._average.update(self._model, index)
        return loss

    def evaluate(self) -> dict[str, float]:
        """Return the mean absolute difference to held-out portraits, on the scale [-1, 1]."""
        return {"heldout_l1": self._held_out.l1(self._average.average)}

    def draw_sheet(self) -> Image.Image:
        """Show held-out portraits above what is drawn from their parameters."""
        return self._held_out.sheet(self._average.average)

    def state(self) -> dict[str, Any]:
        """Return the weights of both networks, the averages and the optimizers' states."""
        return {
            "model": self._model.state_dict(),
            "judge": self._judge.state_dict(),
            "average": self._average.average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "judging": self._judging.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._model.load_state_dict(state["model"])
        self._judge.load_state_dict(state["judge"])
        self._average.average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._judging.load_state_dict(state["judging"])

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
