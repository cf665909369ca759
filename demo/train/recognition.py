"""dlib's face recognition network, which was trained on photographs, for comparison."""

from dataclasses import dataclass
from typing import Any

import dlib
import numpy as np
import torch
from torch import Tensor

from demo.portraits.detection import landmark_model

_RECOGNITION_MODEL = "dlib_face_recognition_resnet_model_v1.dat"


@dataclass(frozen=True)
class Recognized:
    """Hold what dlib's network says of N pictures.

    Attributes:
        embeddings: [N, 128]; people are told by the Euclidean distance. 0 where not found.
        found: [N] whether dlib found a face.
    """

    embeddings: Tensor
    found: Tensor


class FaceRecognizer:
    """Find the best face of a picture, align it to 150 px, and embed it, all with dlib."""

    def __init__(self) -> None:
        self._detector: Any = dlib.get_frontal_face_detector()
        self._predictor: Any = dlib.shape_predictor(str(landmark_model()))
        network = landmark_model().with_name(_RECOGNITION_MODEL)
        self._network: Any = dlib.face_recognition_model_v1(str(network))

    def recognize(self, pictures: Tensor) -> Recognized:
        """Embed pictures [N, 3, H, W] in [-1, 1]."""
        levels = (pictures.clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(0, 2, 3, 1)
        embeddings = torch.zeros(len(pictures), 128)
        found = torch.zeros(len(pictures), dtype=torch.bool)
        for row, image in enumerate(levels.cpu().numpy()):
            # dlib's scores are wrong for arrays that are not contiguous.
            pixels = np.ascontiguousarray(image)
            boxes = self._detector(pixels)
            if boxes:
                shape = self._predictor(pixels, boxes[0])
                embedding = self._network.compute_face_descriptor(pixels, shape)
                embeddings[row] = torch.tensor([*embedding])
                found[row] = True
        return Recognized(embeddings, found)
