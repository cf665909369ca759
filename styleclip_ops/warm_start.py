"""Where faces lie that fit a prompt: a start for latent optimization beyond where CLIP is flat.

From a face without a smile or a hat, a generator may draw none for the first part of the way to a
face with one. The gradient of CLIP there tells nothing of it, and descent finds other pictures that
please CLIP. Random faces tell where to go instead: what of w goes with their similarity to the
prompt. (FuseDream, Liu et al., 2021, starts from samples that fit its prompt; it edits no face.)
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from styleclip_ops.clip import ImageEmbedder
from styleclip_ops.errors import ConfigError, check_shape
from styleclip_ops.generator import Generator
from styleclip_ops.lots import in_lots

NUM_FACES = 1024
# Of the similarity to the prompt, above its mean over random faces.
DEVIATIONS = 3.0
_SEED = 5


class RandomFaces(NamedTuple):
    """Random faces and what CLIP sees in them.

    Attributes:
        w: [N, w_dim], not truncated.
        clip: [N, E], unit norm.
    """

    w: Tensor
    clip: Tensor


@torch.no_grad()
def draw_random_faces(
    generator: Generator,
    clip: ImageEmbedder,
    num_faces: int = NUM_FACES,
    *,
    seed: int = _SEED,
    lot: int = 4,
) -> RandomFaces:
    """Draw random faces and embed their images.

    Args:
        generator: The generator.
        clip: The image embedder.
        num_faces: How many; at least 2.
        seed: Of numpy's RandomState.
        lot: Faces that are rendered at a time.

    Raises:
        ConfigError: `num_faces` is below 2.
    """
    if num_faces < 2:
        raise ConfigError(f"num_faces: got {num_faces}, expected at least 2")
    random = np.random.RandomState(seed)
    z = torch.from_numpy(random.randn(num_faces, generator.config.z_dim)).to(generator.w_avg)
    w = in_lots(generator.mapping, z, lot)
    seen = in_lots(lambda part: clip.embed_images(generator(generator.w_to_w_plus(part))), w, lot)
    return RandomFaces(w, seen)


def prompt_offset(
    faces: RandomFaces, text_embedding: Tensor, deviations: float = DEVIATIONS
) -> Tensor:
    """Estimate how w changes from faces of the usual similarity to a prompt to very similar ones.

    The linear regression of every coordinate of w on the similarity.

    Args:
        faces: Random ones.
        text_embedding: [E] the prompt.
        deviations: How much more similar, in standard deviations.

    Returns:
        [w_dim]; zero where all faces are equally similar.

    Raises:
        ShapeError: The embedding does not fit those of the faces.
    """
    check_shape("text_embedding", text_embedding, (faces.clip.shape[1],))
    similarity = faces.clip @ text_embedding
    centred = similarity - similarity.mean()
    std = centred.square().mean().sqrt()
    covariance = (faces.w - faces.w.mean(dim=0)).T @ centred / len(centred)
    return deviations * covariance / std.clamp_min(torch.finfo(std.dtype).tiny)
