"""Held-out portraits, by which generators are judged."""

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

from demo.train.shards import PortraitShards, to_pictures
from demo.train.sheets import paired_sheet

# parameters [N, P] -> pictures [N, 3, size, size]
Drawer = Callable[[Tensor], Tensor]


class HeldOut:
    """Hold portraits, on a device, that nothing learns from."""

    def __init__(self, shards: PortraitShards, device: torch.device) -> None:
        self._pictures = to_pictures(shards.levels(torch.arange(len(shards)))).to(device)
        self._parameters = shards.parameters.to(device)

    @torch.no_grad()
    def l1(self, draw: Drawer, batch: int = 64) -> float:
        """Return the mean absolute difference to what `draw` gives, on the scale [-1, 1]."""
        total = 0.0
        for pictures, parameters in zip(
            torch.split(self._pictures, batch), torch.split(self._parameters, batch), strict=True
        ):
            total += float((draw(parameters).clamp(-1, 1) - pictures).abs().mean()) * len(pictures)
        return total / len(self._pictures)

    @torch.no_grad()
    def sheet(self, draw: Drawer, num: int = 32) -> Image.Image:
        """Show portraits above what `draw` gives."""
        return paired_sheet(self._pictures[:num], draw(self._parameters[:num]))
