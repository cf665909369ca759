"""Latent optimization against the published loop: one image at a time, all 300 steps.

Two things make the difference, and are measured apart: the time of a step at 256 px, and the steps
until the loss stands still on the demo's networks. Their product is the gain in pairs per hour. The
losses say whether it is at equal quality.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks import plain_generator
from benchmarks.networks import PROMPTS, Networks, demo_networks, large_networks, random_latents
from benchmarks.paired import Ratio, compare
from styleclip_ops.losses import cosine_distance
from styleclip_ops.optimize import OptimizeConfig, OptimizeLoss, optimize_latents

_STEPS = 300


def run(device: str = "cpu") -> Iterator[Ratio]:
    """Compare the time of a step, then the number of steps and the loss."""
    ours, published = _step_of_two(device)
    step = compare("latent optimization 256 px: a step of two images", ours, published, pairs=2)
    yield step
    fewer, losses = _convergence(demo_networks(device), images=4)
    yield fewer
    yield losses
    name = "latent optimization: pairs per hour, the product of both"
    median, low, high = step.median * fewer.median, step.low * fewer.low, step.high * fewer.high
    yield Ratio(name, median, low, high, 0.0)


def _step_of_two(device: str) -> tuple["_Ours", "_Published"]:
    networks = large_networks(device)
    w_plus = random_latents(networks.generator, 2)
    text = networks.clip.embed_texts([PROMPTS[0]])
    return _Ours(networks, w_plus, text), _Published(networks, w_plus, text)


class _Ours:
    def __init__(self, networks: Networks, w_plus: Tensor, text: Tensor) -> None:
        self.arguments = (networks.generator, networks.clip, w_plus, text)

    def __call__(self) -> None:
        optimize_latents(*self.arguments, OptimizeConfig(steps=1))


class _Published:
    """A step of run_optimization.py, for one image after the other."""

    def __init__(self, networks: Networks, w_plus: Tensor, text: Tensor) -> None:
        self.networks, self.w_plus, self.text = networks, w_plus, text

    def __call__(self) -> None:
        generator, clip = self.networks.generator, self.networks.clip
        for row in self.w_plus:
            latent = row[None].clone().requires_grad_()
            optimizer = torch.optim.Adam([latent], lr=0.1)
            images = plain_generator.synthesize(generator, generator.w_plus_to_s(latent))
            loss = cosine_distance(clip.embed_images(images), self.text).sum()
            loss = loss + 0.008 * (latent - row).square().sum()
            (latent.grad,) = torch.autograd.grad(loss, latent)
            optimizer.step()


def _convergence(networks: Networks, images: int) -> tuple[Ratio, Ratio]:
    """How many times fewer steps are made, and how the final losses compare."""
    w_plus = random_latents(networks.generator, images, seed=1)
    texts = networks.clip.embed_texts([*PROMPTS[:images]])

    def losses(config: OptimizeConfig) -> Tensor:
        seen: list[Tensor] = []

        def record(_: int, loss: OptimizeLoss) -> None:
            seen.append(loss.total)

        optimize_latents(networks.generator, networks.clip, w_plus, texts, config, on_step=record)
        return torch.stack(seen)

    ours = losses(OptimizeConfig(steps=_STEPS))
    published = losses(OptimizeConfig(steps=_STEPS, mode="published"))
    steps = (~ours.isnan()).sum(dim=0)
    fewer = _STEPS / steps
    best = ours.nan_to_num(nan=math.inf).min(dim=0).values
    # The published script returns the image that was rendered before the last update.
    quotient = published[-1] / best
    return (
        Ratio(
            "latent optimization, demo networks: steps, of 300",
            _STEPS / float(steps.double().mean()),
            float(fewer.min()),
            float(fewer.max()),
            0.0,
        ),
        Ratio(
            "latent optimization, demo networks: published final loss / ours",
            float(quotient.mean()),
            float(quotient.min()),
            float(quotient.max()),
            0.0,
        ),
    )
