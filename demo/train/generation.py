"""How far what the generator draws from z is from the renders, as the probes see it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from demo.portraits.attributes import RATES
from demo.train.randomness import step_generator
from demo.train.reconstruction import AttributeJudge, draw_latents
from demo.train.tables import markdown_table, percent
from styleclip_ops.generator import Generator
from styleclip_ops.metrics import FrechetDistance, frechet_distance


class FeatureJudge(AttributeJudge, Protocol):
    """Tell attributes, and give the features that they are told from."""

    def features(self, images: Tensor) -> Tensor:
        """Map images [N, 3, R, R] in [-1, 1] to [N, F]."""


@dataclass(frozen=True)
class Seen:
    """Hold what a probe sees in N pictures.

    Attributes:
        features: [N, F].
        options: attribute -> [N] indices of options.
    """

    features: Tensor
    options: Mapping[str, Tensor]

    def rate(self, attribute: str, option: str) -> float:
        """Return the share of pictures with this option."""
        index = [*RATES[attribute]].index(option)
        return float((self.options[attribute] == index).float().mean())


@dataclass(frozen=True)
class GenerationFigures:
    """Compare samples with renders.

    Attributes:
        samples: Fréchet distance of samples and renders.
        renders: The same of two sets of renders, of the same sizes.
        rates: (attribute, option) -> its rate in renders and in samples.
    """

    samples: FrechetDistance
    renders: FrechetDistance
    rates: Mapping[tuple[str, str], tuple[float, float]]

    def describe(self) -> str:
        """Write the figures as Markdown."""
        rows = [
            [attribute, option, percent(data), percent(drawn), f"{100 * (drawn - data):+.0f}"]
            for (attribute, option), (data, drawn) in self.rates.items()
        ]
        header = ["attribute", "option", "renders", "samples", "points"]
        count = self.samples.num_samples
        gaps = [abs(drawn - data) for data, drawn in self.rates.values()]
        return (
            f"Fréchet distance in the probe's features, {count} pictures a set: "
            f"samples and renders {self.samples.value:.2f}, renders and other renders "
            f"{self.renders.value:.2f}. Such distances are comparable at the same count only.\n\n"
            "Share of pictures in which the probe sees an option; "
            f"the mean gap is {100 * sum(gaps) / len(gaps):.1f} points, "
            f"the largest {100 * max(gaps):.0f}:\n\n" + markdown_table(header, rows)
        )


@torch.no_grad()
def look_at(probe: FeatureJudge, batches: Iterator[Tensor]) -> Seen:
    """Show batches of pictures [N, 3, size, size] to a probe."""
    features, options = list[Tensor](), list[Mapping[str, Tensor]]()
    for pictures in batches:
        features.append(probe.features(pictures))
        options.append(probe.predict(pictures))
    joined = {name: torch.cat([part[name] for part in options]) for name in options[0]}
    return Seen(torch.cat(features), joined)


@torch.no_grad()
def sample_pictures(generator: Generator, num: int, seed: int, batch: int = 64) -> Iterator[Tensor]:
    """Draw `num` pictures from z ~ N(0, I), [at most batch, 3, size, size] in [-1, 1]."""
    for step, start in enumerate(range(0, num, batch)):
        draw = step_generator(seed, step)
        z = torch.randn(min(batch, num - start), generator.config.z_dim, generator=draw)
        w = generator.mapping(z.to(generator.w_avg))
        yield draw_latents(generator, generator.w_to_w_plus(w))


def compare_generation(samples: Seen, renders: Seen, others: Seen) -> GenerationFigures:
    """Compare samples with renders, and these with other renders, as many in each set."""
    return GenerationFigures(
        samples=frechet_distance(samples.features, renders.features),
        renders=frechet_distance(others.features, renders.features),
        rates={
            (name, option): (renders.rate(name, option), samples.rate(name, option))
            for name, options in RATES.items()
            for option in options
        },
    )
