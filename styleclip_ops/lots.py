"""Networks that see the same number of images every time.

Matrix products and convolutions of other shapes add up in another order, so that an image would
differ in its last bits with its company. In lots of one size, the last one filled up, it does not.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# Pixels of a lot, and the most images: beyond these, more images at a time gain little.
_PROCESSOR = (2**17, 8)
_ACCELERATOR = (2**21, 16)
# Optimizations at a time on processors, at most: they end at different steps, and a lot is whole
# until its last one ends.
_OPTIMIZATIONS = 4


def lot_size(resolution: int, device: torch.device) -> int:
    """Return how many images a network gets at a time.

    Args:
        resolution: Of the images, in pixels.
        device: Where they are computed.

    Returns:
        On processors 8, or 2 from 256 px on; on accelerators 16, or 8 at 512 and 2 at 1024 px.
    """
    pixels, most = _PROCESSOR if device.type == "cpu" else _ACCELERATOR
    return min(max(pixels // resolution**2, 2), most)


def optimization_lot_size(resolution: int, device: torch.device) -> int:
    """Return how many optimizations are at work at a time: as `lot_size`, on processors at most 4.

    Args:
        resolution: Of the images, in pixels.
        device: Where they are computed.
    """
    lot = lot_size(resolution, device)
    return min(lot, _OPTIMIZATIONS) if device.type == "cpu" else lot


def fill_up(count: int, lot: int) -> list[int]:
    """Return the places of `count` items, the last repeated until they are whole lots."""
    return [*range(count), *[count - 1] * (-count % lot)]


def in_lots(function: Callable[[Tensor], Tensor], values: Tensor, lot: int) -> Tensor:
    """Apply a function that works item by item to lots of one size.

    Args:
        function: [lot, ...] -> [lot, ...].
        values: [N, ...] with N at least 1.
        lot: Items of a lot.

    Returns:
        [N, ...]; an item's bits do not depend on the others.
    """
    lots = torch.split(values[fill_up(len(values), lot)], lot)
    return torch.cat([function(part) for part in lots])[: len(values)]
