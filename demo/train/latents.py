"""How far predicted latents lie from those wanted, in the units of the generator's own spread."""

import torch
from torch import Tensor

from styleclip_ops.generator import Generator


class LatentError:
    """Measure W+ against the w wanted: the share of the variance missed, in W+ and in S.

    Args:
        generator: Gives S.
        w: [N, w_dim] samples, whose spread is the unit.
    """

    @torch.no_grad()
    def __init__(self, generator: Generator, w: Tensor) -> None:
        self._generator = generator
        w_plus = generator.w_to_w_plus(w)
        self._w_variance = _floored(w.var(dim=0))
        self._s_variance = _floored(generator.w_plus_to_s(w_plus).var(dim=0))
        self._s_of_zero = generator.w_plus_to_s(torch.zeros_like(w_plus[:1]))

    def __call__(self, w_plus: Tensor, w: Tensor) -> Tensor:
        """Return the sum of both shares for `w_plus` [N, num_ws, w_dim] and `w` [N, w_dim]."""
        miss = w_plus - w[:, None]
        # S is affine in W+, so the miss in S is the linear part of the miss in W+.
        s_miss = self._generator.w_plus_to_s(miss) - self._s_of_zero
        return self.share(miss) + (s_miss.square() / self._s_variance).mean()

    def share(self, miss: Tensor) -> Tensor:
        """Return the mean square of offsets [N, rows, w_dim] in units of the variance of w."""
        return (miss.square() / self._w_variance).mean()


def _floored(variance: Tensor) -> Tensor:
    """Raise the variances of dead units to 1 % of the mean."""
    return variance.clamp_min(float(variance.mean()) * 0.01)
