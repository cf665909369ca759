"""Perceptual distance LPIPS with AlexNet, version 0.1 (Zhang et al., CVPR 2018)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from styleclip_ops.checkpoint_files import Source, fill, read_data, reading, skeleton, tensors_of
from styleclip_ops.errors import check_shape

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_SIZE = 256

# Places of the convolutions in torchvision's AlexNet, and their output channels.
_CONVOLUTIONS = {0: 64, 3: 192, 6: 384, 8: 256, 10: 256}


class Lpips(nn.Module):
    """Distance of image pairs as people see it, 0 for equal images."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict(
            {
                "0": nn.Conv2d(3, 64, 11, 4, 2),
                "3": nn.Conv2d(64, 192, 5, 1, 2),
                "6": nn.Conv2d(192, 384, 3, 1, 1),
                "8": nn.Conv2d(384, 256, 3, 1, 1),
                "10": nn.Conv2d(256, 256, 3, 1, 1),
            }
        )
        self.linear = nn.ParameterList(
            [nn.Parameter(torch.zeros(1, width, 1, 1)) for width in _CONVOLUTIONS.values()]
        )

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Compare images at 256 px.

        Args:
            a: [N, 3, R, R] in [-1, 1], any size; resized with an antialiased bilinear filter.
            b: The same.

        Returns:
            [N].

        Raises:
            ShapeError: The images are not batches of RGB images of one number.
        """
        check_shape("a", a, ("N", 3, "R", "R"))
        check_shape("b", b, (len(a), 3, "R", "R"))
        distance = a.new_zeros(len(a))
        for weight, x, y in zip(self.linear, self._stages(a), self._stages(b), strict=True):
            difference = (_unit(x) - _unit(y)).square()
            distance = distance + (difference * weight).sum(dim=1).mean(dim=(1, 2))
        return distance

    def _stages(self, images: Tensor) -> list[Tensor]:
        if images.shape[-2:] != (_SIZE, _SIZE):
            images = F.interpolate(images, (_SIZE, _SIZE), mode="bilinear", antialias=True)
        shift = images.new_tensor(_SHIFT)[:, None, None]
        scale = images.new_tensor(_SCALE)[:, None, None]
        x = (images - shift) / scale
        stages = []
        for place in _CONVOLUTIONS:
            if place in (3, 6):
                x = F.max_pool2d(x, 3, 2)
            x = self.features[str(place)](x).relu()
            stages.append(x)
        return stages


def load_lpips(alexnet: Source, linear: Source) -> Lpips:
    """Read LPIPS from its two published files.

    Args:
        alexnet: Path or binary file of torchvision's AlexNet weights; the classifier is not read.
        linear: Path or binary file of `weights/v0.1/alex.pth` of the LPIPS release.

    Raises:
        UnsafeCheckpointError: A file asks for code to be run.
        CheckpointError: A file is truncated, or a tensor is missing, extra or of another shape.
    """
    lpips = skeleton(Lpips)
    lpips.features, lpips.linear = load_alexnet(alexnet), load_linear(linear)
    return lpips.eval().requires_grad_(False)


def load_alexnet(source: Source) -> nn.ModuleDict:
    """Read the convolutions of LPIPS from torchvision's AlexNet, see `load_lpips`."""
    with reading(source) as file:
        tensors = {
            name: tensor
            for name, tensor in tensors_of(read_data(file), "AlexNet").items()
            if not name.startswith("classifier.")
        }
        return fill(skeleton(Lpips).features, tensors, "features.")


def load_linear(source: Source) -> nn.ParameterList:
    """Read the weights of the differences of LPIPS, see `load_lpips`."""
    with reading(source) as file:
        tensors = {
            name.replace("lin", "linear.", 1).removesuffix(".model.1.weight"): tensor
            for name, tensor in tensors_of(read_data(file), "LPIPS").items()
        }
        return fill(skeleton(Lpips).linear, tensors, "linear.")


def _unit(x: Tensor) -> Tensor:
    unit: Tensor = x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10)
    return unit
