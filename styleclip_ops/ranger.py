"""Ranger: rectified Adam with gradient centralisation inside Lookahead.

The mapper's published optimizer. RAdam: Liu et al., ICLR 2020; Lookahead: Zhang et al., NeurIPS
2019; gradient centralisation: Yong et al., ECCV 2020. The rectified step is torch.optim.RAdam's but
for the threshold (5) and for the place of eps, outside the bias correction.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from styleclip_ops.errors import ConfigError

_RECTIFICATION_THRESHOLD = 5.0


class Ranger(torch.optim.Optimizer):
    """The optimizer of the published mapper training.

    Args:
        params: Parameters to optimise.
        lr: Learning rate; the published training uses 0.5.
        betas: Decay of the gradient's running mean and of its square.
        eps: Added to the root of the running square.
        lookahead_steps: Every so many steps the slow weights move.
        lookahead_alpha: How far they move towards the fast weights, 0 to 1.

    Raises:
        ConfigError: A value is outside its range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.5,
        betas: tuple[float, float] = (0.95, 0.999),
        eps: float = 1e-5,
        lookahead_steps: int = 6,
        lookahead_alpha: float = 0.5,
    ) -> None:
        if lr <= 0 or eps <= 0 or lookahead_steps < 1:
            raise ConfigError(
                f"Ranger: got lr {lr}, eps {eps}, lookahead_steps {lookahead_steps}, "
                "expected positive values"
            )
        if not all(0 <= value < 1 for value in betas) or not 0 <= lookahead_alpha <= 1:
            raise ConfigError(f"Ranger: got betas {betas}, lookahead_alpha {lookahead_alpha}")
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "lookahead_steps": lookahead_steps,
                "lookahead_alpha": lookahead_alpha,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["mean"] = torch.zeros_like(parameter)
            state["square"] = torch.zeros_like(parameter)
            state["slow"] = parameter.clone()
        if gradient.dim() > 1:
            gradient = gradient - gradient.mean(dim=tuple(range(1, gradient.dim())), keepdim=True)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["mean"].mul_(beta1).add_(gradient, alpha=1 - beta1)
        state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)

        step, rectification = _step_size(state["step"], beta1, beta2)
        if rectification is None:
            parameter.add_(state["mean"], alpha=-step * group["lr"])
        else:
            denominator = state["square"].sqrt().add_(group["eps"])
            parameter.addcdiv_(
                state["mean"], denominator, value=-step * rectification * group["lr"]
            )
        if state["step"] % group["lookahead_steps"] == 0:
            state["slow"].add_(parameter - state["slow"], alpha=group["lookahead_alpha"])
            parameter.copy_(state["slow"])


def _step_size(step: int, beta1: float, beta2: float) -> tuple[float, float | None]:
    """Bias correction of the mean, and the variance rectification once it is defined."""
    correction = 1 / (1 - beta1**step)
    decay = beta2**step
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * decay / (1 - decay)
    if length <= _RECTIFICATION_THRESHOLD:
        return correction, None
    rectification = math.sqrt(
        (1 - decay)
        * ((length - 4) / (longest - 4))
        * ((length - 2) / length)
        * (longest / (longest - 2))
    )
    return correction, rectification
