"""Verification: how well a network tells two portraits of one person from those of two."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Hold all pairs of N pictures.

    Attributes:
        first, second: [N * (N - 1) / 2] rows of pictures.
        same: [N * (N - 1) / 2] whether they show one person.
    """

    first: Tensor
    second: Tensor
    same: Tensor

    @classmethod
    def of_persons(cls, persons: Tensor) -> "Pairs":
        """Pair the pictures whose persons are `persons` [N]."""
        first, second = torch.triu_indices(len(persons), len(persons), 1)
        return cls(first, second, persons[first] == persons[second])

    def cosines(self, embeddings: Tensor) -> Tensor:
        """Return the likeness of each pair, from `embeddings` [N, E] of unit norm."""
        return (embeddings @ embeddings.T)[self.first, self.second]

    def distances(self, embeddings: Tensor) -> Tensor:
        """Return the Euclidean distance of each pair of `embeddings` [N, E]."""
        return torch.cdist(embeddings, embeddings)[self.first, self.second]


def roc_auc(likeness: Tensor, same: Tensor) -> float:
    """Return the chance that a pair of one person is more alike than one of two; ties are half.

    Args:
        likeness: [P], larger for pairs more alike.
        same: [P] whether a pair shows one person; both kinds occur.

    Raises:
        ValueError: if only one kind occurs.
    """
    if bool(same.all()) or not bool(same.any()):
        raise ValueError(f"pairs: got {len(same)} of one kind, expected same and different persons")
    others = likeness[~same].sort().values
    below = torch.searchsorted(others, likeness[same], right=False)
    not_above = torch.searchsorted(others, likeness[same], right=True)
    return float((below + not_above).double().mean() / (2 * len(others)))
