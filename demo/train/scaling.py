"""The scales of W and S, which a generator's pictures do not depend on, and edits do.

Scaling w and dividing the affine maps that read it changes no picture; neither does scaling the
styles of a demodulated convolution, or those of a toRGB layer whose weights are divided. But the
distance terms and step sizes of the published edits are made for the scales of the published
generators; here the demo generator is brought to such scales, so that their defaults suit it too.
"""

import torch
from torch import Tensor

from demo.train.synthesis import ConditionedGenerator
from styleclip_ops.generator import ToRGB

# Standard deviation of a coordinate of w, and mean absolute style of a layer.
W_STD, STYLE_SIZE = 0.2, 1.0


@torch.no_grad()
def scale_latents(
    conditioned: ConditionedGenerator, parameters: Tensor, w_std: float = W_STD
) -> None:
    """Scale w and the styles of a generator, whose pictures stay as they are.

    Args:
        conditioned: The generator with its map to w; both are changed.
        parameters: [N, P] of portraits, that the scales are measured on.
        w_std: Standard deviation of a coordinate of w afterwards, the mean over the coordinates.
    """
    generator = conditioned.generator
    last = conditioned.parameter_to_w.linear[-1]
    gain = w_std / float(conditioned.parameter_to_w(parameters).std(dim=0).mean())
    last.weight.mul_(gain)
    last.bias.mul_(gain)
    w_plus = generator.w_to_w_plus(conditioned.parameter_to_w(parameters))
    for layer in generator.layout.layers:
        module = generator.synthesis.style_layer(layer)
        module.affine.weight.div_(gain)
        size = float(module.affine(w_plus[:, layer.w_index]).abs().mean()) / STYLE_SIZE
        module.affine.weight.div_(size)
        module.affine.bias.div_(size)
        if isinstance(module, ToRGB):
            module.weight.mul_(size)
