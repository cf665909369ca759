"""Face identity: ArcFace on IR-SE50 (Deng et al., CVPR 2019), cropped as StyleCLIP does (3.1)."""

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from styleclip_ops.errors import MAX_WIDTH, check_integers, check_shape
from styleclip_ops.ir_se import IrSeConfig, residual_units, stem

# The FFHQ crop at 256 px, cut to what the recognition network was trained on.
_ALIGNED_SIZE = 256
_CROP_ROWS = slice(35, 223)
_CROP_COLUMNS = slice(32, 220)
_INPUT_SIZE = 112


@dataclass(frozen=True)
class ArcFaceConfig:
    """The architecture of an identity network; the defaults are the published IR-SE50.

    Attributes:
        embedding_dim: Length of the identity embedding.
        trunk: The residual network.
    """

    embedding_dim: int = 512
    trunk: IrSeConfig = field(default_factory=IrSeConfig)

    def __post_init__(self) -> None:
        check_integers(1, MAX_WIDTH, embedding_dim=self.embedding_dim)


class ArcFace(nn.Module):
    """FFHQ-aligned images -> identity embeddings.

    Args:
        config: The architecture.
    """

    def __init__(self, config: ArcFaceConfig) -> None:
        super().__init__()
        self.config = config
        width = config.trunk.widths[3]
        area = (_INPUT_SIZE // 16) ** 2
        self.input_layer = stem(config.trunk.widths[0])
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Dropout(0.6),
            nn.Flatten(),
            nn.Linear(width * area, config.embedding_dim),
            nn.BatchNorm1d(config.embedding_dim),
        )
        self.body = residual_units(config.trunk)

    def forward(self, crops: Tensor) -> Tensor:
        """Embed 112 px face crops [N, 3, 112, 112], not normalised: [N, embedding_dim]."""
        embedding: Tensor = self.output_layer(self.body(self.input_layer(crops)))
        return embedding

    def embed(self, images: Tensor) -> Tensor:
        """Embed FFHQ-aligned faces; the dot product of two embeddings is their similarity.

        Args:
            images: [N, 3, R, R] in [-1, 1], any size.

        Returns:
            [N, embedding_dim], unit norm, differentiable.

        Raises:
            ShapeError: The images are not a batch of RGB images.
        """
        return F.normalize(self(face_crop(images)), dim=1)


def face_crop(images: Tensor) -> Tensor:
    """Cut the inner face out of FFHQ-aligned images [N, 3, R, R], pooled to [N, 3, 112, 112]."""
    check_shape("images", images, ("N", 3, "R", "R"))
    if images.shape[2] != _ALIGNED_SIZE:
        images = F.adaptive_avg_pool2d(images, _ALIGNED_SIZE)
    return F.adaptive_avg_pool2d(images[:, :, _CROP_ROWS, _CROP_COLUMNS], _INPUT_SIZE)
