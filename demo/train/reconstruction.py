"""What an inversion keeps of a picture: its looks, the person, the attributes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from demo.train.tables import markdown_table, percent
from styleclip_ops.encoder import E4eEncoder
from styleclip_ops.generator import Generator
from styleclip_ops.losses import IdentityEmbedder, cosine_distance


class AttributeJudge(Protocol):
    """Tell attributes: images [N, 3, R, R] in [-1, 1] -> the index [N] of each one's option."""

    def predict(self, images: Tensor) -> Mapping[str, Tensor]:
        """Judge images."""


@dataclass(frozen=True)
class ReconstructionFigures:
    """Hold means over pictures.

    Attributes:
        l1: Absolute difference on the scale [-1, 1].
        identity: Cosine of the identity embeddings.
        kept: Share of pictures whose attribute the probe judges the same, by attribute.
    """

    l1: float
    identity: float
    kept: Mapping[str, float]

    @property
    def mean_kept(self) -> float:
        """Mean of `kept` over the attributes."""
        return sum(self.kept.values()) / len(self.kept)


@torch.no_grad()
def invert(encoder: E4eEncoder, pictures: Tensor, batch: int = 32) -> Tensor:
    """Encode pictures [N, 3, size, size] to W+ [N, num_ws, w_dim], some at a time."""
    return torch.cat([encoder(part) for part in torch.split(pictures, batch)])


@torch.no_grad()
def draw_latents(generator: Generator, w_plus: Tensor, batch: int = 32) -> Tensor:
    """Render W+ [N, num_ws, w_dim] to pictures [N, 3, size, size] in [-1, 1], some at a time."""
    parts = [generator(part).clamp(-1, 1) for part in torch.split(w_plus, batch)]
    return torch.cat(parts)


@torch.no_grad()
def measure_reconstruction(
    wanted: Tensor,
    drawn: Tensor,
    probe: AttributeJudge,
    identity: IdentityEmbedder,
    batch: int = 32,
) -> ReconstructionFigures:
    """Compare `wanted` with what is `drawn` of it, [N, 3, size, size] in [-1, 1] each."""
    distance, same = 0.0, dict[str, int]()
    for pair in zip(torch.split(wanted, batch), torch.split(drawn, batch), strict=True):
        ours, theirs = (identity.embed(part) for part in pair)
        distance += float(cosine_distance(ours, theirs).sum())
        judged, found = (probe.predict(part) for part in pair)
        for name, options in judged.items():
            same[name] = same.get(name, 0) + int((options == found[name]).sum())
    return ReconstructionFigures(
        l1=float((wanted - drawn).abs().mean()),
        identity=1 - distance / len(wanted),
        kept={name: count / len(wanted) for name, count in same.items()},
    )


def describe_reconstruction(sets: Mapping[str, ReconstructionFigures]) -> str:
    """Write the figures of an encoder as Markdown, a column for each set of pictures."""
    rows = [
        ["L1", *(f"{figures.l1:.4f}" for figures in sets.values())],
        ["identity cosine", *(f"{figures.identity:.3f}" for figures in sets.values())],
        ["attributes kept, mean", *(percent(figures.mean_kept) for figures in sets.values())],
    ]
    for name in next(iter(sets.values())).kept:
        rows.append([f"{name} kept", *(percent(figures.kept[name]) for figures in sets.values())])
    return markdown_table(["figure", *sets], rows)
