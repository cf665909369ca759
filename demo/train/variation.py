"""Changes of a picture that change no attribute: small moves, mirroring, blur, colours, grain."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from demo.train.augmentation import FrameJitter, jitter_frames


@dataclass(frozen=True)
class Variation:
    """How far pictures are changed.

    Attributes:
        frame: Standard deviations of the frame.
        blurs: Passes of a 3x3 mean that the most blurred picture gets; half of all get some.
        tint: Standard deviation of contrast and brightness, common and of each colour.
        grain: Standard deviation of the noise in the noisiest picture; half of all get some.
    """

    frame: FrameJitter = field(default_factory=lambda: FrameJitter(0.03, (0.025, 0.025), 1.5))
    blurs: int = 3
    tint: float = 0.04
    grain: float = 0.08


def vary_pictures(pictures: Tensor, variation: Variation, generator: torch.Generator) -> Tensor:
    """Change pictures [N, 3, H, W] in [-1, 1], each in its own way."""
    count = len(pictures)
    mirrored, blurred, noisy = torch.rand(3, count, generator=generator) < 0.5
    amounts = torch.rand(2, count, generator=generator)
    tints = torch.randn(2, count, 4, generator=generator) * variation.tint
    varied = torch.where(_each(mirrored, pictures), pictures.flip(3), pictures)
    varied = jitter_frames(varied, variation.frame, generator)
    blur = _each(blurred * amounts[0], pictures)
    varied = torch.lerp(varied, blur_pictures(varied, variation.blurs), blur)
    gain, shift = (tints[:, :, :1] + tints[:, :, 1:]).to(pictures)[..., None, None]
    tinted: Tensor = varied * (1 + gain) + shift
    noise = torch.randn(tinted.shape, generator=generator).to(tinted)
    grain = noise * _each(noisy * amounts[1] * variation.grain, pictures)
    return tinted + grain


def blur_pictures(pictures: Tensor, passes: int = 2) -> Tensor:
    """Average every pixel of [N, 3, H, W] with its neighbours, `passes` times."""
    for _ in range(passes):
        pictures = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    return pictures


def _each(values: Tensor, pictures: Tensor) -> Tensor:
    """Shape a value [N] for each picture as [N, 1, 1, 1], on the pictures' device."""
    return values.to(pictures.device)[:, None, None, None]
