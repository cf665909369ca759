"""What happens to a face on its way to the encoder: frames a little off, blur, compression."""

import io
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class FrameJitter:
    """Standard deviations of the frames that dlib's landmarks give, from the true ones.

    The defaults are those of `demo.portraits.detection.measure_scenes`.

    Attributes:
        scale: Of the side's logarithm.
        shift: Of the centre, across and down, in half sides.
        turn: Of the rotation, degrees.
    """

    scale: float = 0.08
    shift: tuple[float, float] = (0.02, 0.035)
    turn: float = 2.0


def jitter_frames(pictures: Tensor, jitter: FrameJitter, generator: torch.Generator) -> Tensor:
    """Cut pictures [N, 3, H, W] out anew at frames that are a little off, mirrored at the edges."""
    deviations = torch.tensor([jitter.scale, *jitter.shift, jitter.turn])
    draws = torch.randn(len(pictures), 4, generator=generator) * deviations
    scale, angle = draws[:, 0].exp(), torch.deg2rad(draws[:, 3])
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    rows = [cosine, -sine, draws[:, 1], sine, cosine, draws[:, 2]]
    frames = torch.stack(rows, dim=1).view(-1, 2, 3).to(pictures)
    grid = F.affine_grid(frames, [*pictures.shape], align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)


def wear_pictures(pictures: Tensor, generator: torch.Generator, share: float = 0.3) -> Tensor:
    """Blur a share of pictures [N, 3, H, W] in [-1, 1] a little, and compress another as JPEG."""
    blurred, compressed = torch.rand(2, len(pictures), generator=generator) < share
    amount = torch.rand(len(pictures), generator=generator)
    worn = torch.lerp(
        pictures, _blur(pictures), (blurred * amount).to(pictures)[:, None, None, None]
    )
    for row in compressed.nonzero()[:, 0].tolist():
        worn[row] = _compress(worn[row], quality=60 + int(35 * amount[row]))
    return worn


def _blur(pictures: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="reflect"), 3, stride=1)


def _compress(picture: Tensor, quality: int) -> Tensor:
    levels = (picture.clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(levels.cpu().numpy()).save(file, "JPEG", quality=quality)
    decoded = torch.from_numpy(np.array(Image.open(file), np.float32))
    return (decoded.permute(2, 0, 1) / 127.5 - 1).to(picture)
