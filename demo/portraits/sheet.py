"""Contact sheets: many pictures on one."""

import torch
from PIL import Image
from torch import Tensor


def contact_sheet(pictures: Tensor, columns: int, gap: int = 2) -> Image.Image:
    """Lay pictures out in rows.

    Args:
        pictures: [N, 3, H, W] in [-1, 1].
        columns: pictures in a row.
        gap: white pixels between pictures.
    """
    count, _, height, width = pictures.shape
    rows = -(-count // columns)
    sheet = torch.ones(3, rows * (height + gap) + gap, columns * (width + gap) + gap)
    for i, picture in enumerate(pictures):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = picture
    return to_image(sheet)


def to_image(picture: Tensor) -> Image.Image:
    """Return one picture [3, H, W] in [-1, 1] as an RGB image."""
    levels = (picture.detach().cpu().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
