"""Sample sheets."""

import torch
from PIL import Image
from torch import Tensor

from demo.portraits.sheet import contact_sheet


def paired_sheet(above: Tensor, below: Tensor, columns: int = 8, zoom: int = 2) -> Image.Image:
    """Lay pictures out in pairs of rows, each of `above` over its one of `below`.

    Args:
        above: [N, 3, H, W] in [-1, 1].
        below: The same shape.
        columns: Pairs in a row.
        zoom: Screen pixels a pixel.
    """
    rows = []
    for upper, lower in zip(
        torch.split(above.cpu(), columns), torch.split(below.cpu(), columns), strict=True
    ):
        blank = upper.new_ones(columns - len(upper), *upper.shape[1:])
        rows += [upper, blank, lower, blank]
    sheet = contact_sheet(torch.cat(rows), columns)
    size = (sheet.width * zoom, sheet.height * zoom)
    return sheet.resize(size, Image.Resampling.NEAREST)
