"""Networks that exist in training only, and what all finished ones go through."""

from typing import TypeVar

from torch import Tensor, nn

from styleclip_ops.layers import EqualizedLinear

M = TypeVar("M", bound=nn.Module)


def halve_weights(network: M) -> M:
    """Bring the weights of a network to half precision, and leave its batch statistics as they are.

    A variance can be larger than half precision holds.
    """
    for parameter in network.parameters():
        parameter.data = parameter.data.half()
    return network


class ParameterToW(nn.Module):
    """Map parameter vectors [N, P] of portraits to w [N, w_dim].

    It ends as the mapping network does, in a leaky ReLU with gain, so that the mapping network
    can give the same w.
    """

    def __init__(self, num_parameters: int, w_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            EqualizedLinear(num_parameters, w_dim, activate=True),
            EqualizedLinear(w_dim, w_dim, activate=True),
            EqualizedLinear(w_dim, w_dim, activate=True),
        )

    @property
    def linear(self) -> list[EqualizedLinear]:
        """The layers, in order."""
        return [layer for layer in self.layers if isinstance(layer, EqualizedLinear)]

    def forward(self, parameters: Tensor) -> Tensor:
        """Map [N, P] to [N, w_dim]."""
        w: Tensor = self.layers(parameters)
        return w
