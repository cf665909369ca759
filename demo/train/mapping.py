"""The mapping network: from z ~ N(0, I) to the w of the portraits that z names."""

from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from demo.portraits.render import render_portraits
from demo.portraits.sampling import NUM_NORMALS, portraits_from_normal, sample_normals
from demo.train.averaging import WeightAverage
from demo.train.descent import Schedule, descend
from demo.train.normals import pad_normals, parameters_from_normal
from demo.train.randomness import step_generator
from demo.train.sheets import paired_sheet
from demo.train.synthesis import ConditionedGenerator
from demo.train.trainee import KeptState
from styleclip_ops.generator import Generator, MappingNetwork


@dataclass(frozen=True)
class MappingConfig:
    """How to train the mapping network.

    Attributes:
        batch: Latents in a step.
        schedule: Learning rates of Adam. The layers scale their weights by 0.01, which makes them
            a hundred times less sensitive: 0.2 here is 0.002 for usual layers.
        held_out_seed: Names the series of portraits that it is judged by.
        held_out: How many of them.
        samples: Latents that spreads, held-out errors and the mean w are measured on.
        seed: Names the run: initial weights and latents.
    """

    batch: int = 256
    schedule: Schedule = field(default_factory=lambda: Schedule(0.2, hold=2000))
    held_out_seed: int = 2
    held_out: int = 256
    samples: int = 8192
    seed: int = 0


@torch.no_grad()
def ignore_free_coordinates(mapping: MappingNetwork) -> None:
    """Let a fresh mapping network begin with the coordinates of z that name the portrait only.

    The free coordinates would be nine tenths of what the first layer gives, all noise to unlearn.
    """
    weight = mapping.get_parameter("fc0.weight")
    weight[:, :NUM_NORMALS] *= (mapping.z_dim / NUM_NORMALS) ** 0.5
    weight[:, NUM_NORMALS:] = 0


class MappingTrainee(KeptState):
    """Train a mapping network to give, from z, the w of a ConditionedGenerator.

    The first NUM_NORMALS coordinates of z are the normal vector of a portrait.

    Args:
        config: How.
        conditioned: Gives the w wanted; not changed but for its mapping network.
        device: Where to train.
    """

    figures = ("loss", "heldout_w_error", "heldout_s_error", "heldout_l1")

    def __init__(
        self, config: MappingConfig, conditioned: ConditionedGenerator, device: torch.device
    ) -> None:
        self.samples_per_step = config.batch
        self._config, self._device = config, device
        self._conditioned = conditioned.to(device)
        torch.manual_seed(config.seed)
        generator = conditioned.generator
        self._mapping = Generator(generator.config).mapping.to(device)
        ignore_free_coordinates(self._mapping)
        self._average = WeightAverage(self._mapping)
        self._optimizer = torch.optim.Adam(self._mapping.parameters(), betas=(0.9, 0.99), eps=1e-8)
        super().__init__(
            mapping=self._mapping, average=self._average.average, optimizer=self._optimizer
        )
        self._w_scale, self._s_scale = self._spreads()
        self._held_out_z = self._sample_held_out(config.held_out)
        portraits = portraits_from_normal(self._held_out_z[:, :NUM_NORMALS])
        size = conditioned.generator.resolution
        self._held_out = render_portraits(portraits, size, device)

    def step(self, index: int) -> Tensor:
        """Learn from one batch of fresh latents."""
        z = self._draw(self._config.batch, 0, index)
        loss = torch.stack(self._errors(self._mapping(z), z)).sum()
        descend(self._optimizer, loss, self._config.schedule.at(index))
        self._average.update(self._mapping, index)
        return loss

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return the shares of variance missed in W and S, and the L1 to renders of the same z."""
        z = self._draw(self._config.samples, 1)
        w_error, s_error = self._errors(self._average.average(z), z)
        drawn = self._synthesize(self._average.average(self._held_out_z))
        l1 = (drawn.clamp(-1, 1) - self._held_out).abs().mean()
        return {
            "heldout_w_error": float(w_error),
            "heldout_s_error": float(s_error),
            "heldout_l1": float(l1),
        }

    @torch.no_grad()
    def draw_sheet(self) -> Image.Image:
        """Show renders of held-out z above what the generator gives for the same z."""
        w = self._average.average(self._held_out_z[:32])
        return paired_sheet(self._held_out[:32], self._synthesize(w))

    @torch.no_grad()
    def finished_generator(self) -> Generator:
        """Return the generator, with the averaged mapping network and its mean w."""
        generator = self._conditioned.generator
        generator.mapping.load_state_dict(self._average.average.state_dict())
        z = self._draw(self._config.samples, 2)
        generator.mapping.w_avg = generator.mapping(z).mean(dim=0)
        return generator

    def _draw(self, num: int, stream: int, step: int = 0) -> Tensor:
        """Draw z [num, z_dim]: stream 0 to learn from, the others to measure on."""
        draw = step_generator(self._config.seed + stream, step, self._device)
        return torch.randn(num, self._mapping.z_dim, generator=draw, device=self._device)

    def _errors(self, w: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of the variance of w and of S that `w` [N, w_dim] misses: one scalar each."""
        with torch.no_grad():
            wanted = self._conditioned.parameter_to_w(parameters_from_normal(z))
        miss = w - wanted
        w_error = (miss.square().mean(dim=0) / self._w_scale).mean()
        # S is affine in w, so the miss in S is the linear part of the miss in w.
        s_error = (self._to_s(miss) - self._to_s(torch.zeros_like(miss[:1]))).square().mean(dim=0)
        return w_error, (s_error / self._s_scale).mean()

    def _to_s(self, w: Tensor) -> Tensor:
        generator = self._conditioned.generator
        return generator.w_plus_to_s(generator.w_to_w_plus(w))

    @torch.no_grad()
    def _spreads(self) -> tuple[Tensor, Tensor]:
        """Variances of w [w_dim] and S [S]; those of dead units are raised to the mean's 1 %."""
        z = self._draw(self._config.samples, 3)
        w = self._conditioned.parameter_to_w(parameters_from_normal(z))
        spreads = [values.var(dim=0) for values in (w, self._to_s(w))]
        floors = [spread.mean() * 0.01 for spread in spreads]
        return spreads[0].clamp_min(floors[0]), spreads[1].clamp_min(floors[1])

    def _sample_held_out(self, num: int) -> Tensor:
        normals = sample_normals(num, self._config.held_out_seed)
        draw = step_generator(self._config.held_out_seed, 0)
        return pad_normals(normals, self._mapping.z_dim, draw).to(self._device)

    def _synthesize(self, w: Tensor) -> Tensor:
        return torch.cat(
            [
                self._conditioned.generator.synthesize(self._to_s(part))
                for part in torch.split(w, 64)
            ]
        )
