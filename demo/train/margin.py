"""The margin loss of identity networks, over centres that the renderer's geometry gives."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.train.persons import NUM_IDENTITY_VALUES


class PersonCenters(nn.Module):
    """Give the centre of a person's embeddings from the values that make the person.

    A table with a row a person, as ArcFace has, says nothing of how alike two persons are, and
    learns a person from that person's pictures only. The renderer knows the geometry of every
    person, so one linear map gives the centres of all, and each picture teaches it.
    """

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(NUM_IDENTITY_VALUES, embedding_dim)

    def forward(self, values: Tensor) -> Tensor:
        """Map [N, NUM_IDENTITY_VALUES] to centres of unit norm [N, embedding_dim]."""
        return F.normalize(self.linear(values), dim=1)


def margin_loss(cosines: Tensor, scale: float, margin: float) -> Tensor:
    """Compute CosFace's loss.

    Args:
        cosines: [N, M] of N embeddings to M >= N centres; column i is the own one of row i.
        scale: Factor of the cosines.
        margin: How much nearer than all others the own centre has to be.
    """
    own = torch.arange(len(cosines), device=cosines.device)
    handicap = torch.zeros_like(cosines)
    handicap[own, own] = margin
    return F.cross_entropy((cosines - handicap) * scale, own)
