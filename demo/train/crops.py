"""Crops as photographs give them: portraits before rooms, levelled and cut at their true frames."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from demo.portraits.detection import FaceFinder
from demo.portraits.sampling import parameter_vector
from demo.portraits.scene import Scene, face_truths, render_scenes, sample_scenes
from demo.portraits.sheet import to_image
from demo.train.clock import Deadline
from demo.train.progress import Report
from demo.train.shards import SeriesConfig, has_shard, open_series, write_shard
from styleclip_ops.alignment import align_face

# Sides in pixels of the photographs, and of the crops that are then reduced.
_PHOTOGRAPH_SIZE, _ALIGNED_SIZE = 512, 256

# Samples along a side of a crop's pixel.
_FINE = 2


def render_crop_series(
    folder: Path,
    config: SeriesConfig,
    num: int,
    deadline: Deadline,
    report: Report,
    device: torch.device,
) -> None:
    """Render the shards that are missing of the first `num` crops of a series.

    Args:
        folder: Where the series is, or will be.
        config: The series; its seed is that of `demo.portraits.scene.sample_scenes`.
        num: Crops wanted; whole shards are rendered.
        deadline: No shard is begun after it.
        report: Told the progress.
        device: Where to render.

    Raises:
        ValueError: see `demo.train.shards.open_series`.
    """
    open_series(folder, config)
    shards = -(-num // config.shard)
    scenes = sample_scenes(shards * config.shard, config.seed, people=1)
    for index in range(shards):
        if deadline.passed:
            return
        if has_shard(folder, index):
            continue
        part = scenes[index * config.shard : (index + 1) * config.shard]
        pictures = torch.stack([render_crop(scene, config.size, device) for scene in part])
        portraits = [scene.placements[0].portrait for scene in part]
        write_shard(folder, index, pictures, parameter_vector(portraits))
        report(f"data {folder.name}: {index + 1} of {shards} shards of {config.shard} crops")


def render_crop(scene: Scene, size: int, device: torch.device | str = "cpu") -> Tensor:
    """Render a scene and cut out the face of its first person, as the FFHQ alignment does.

    Args:
        scene: With at least one person.
        size: Side of the crop in pixels.
        device: Where to render.

    Returns:
        [3, size, size] in [-1, 1].
    """
    side = round(_FINE * size / scene.placements[0].scale)
    picture = render_scenes([scene], side, device)[0]
    return cut_quad(picture, face_truths(scene, side)[0].quad.to(device), size)


def cut_quad(picture: Tensor, quad: Tensor, size: int) -> Tensor:
    """Cut a turned square out of a picture, mirrored where it leaves it.

    Args:
        picture: [3, H, W].
        quad: [4, 2] corners in pixels: top left, bottom left, bottom right, top right.
        size: Side of the result in pixels.

    Returns:
        [3, size, size].
    """
    fine = size * _FINE
    ticks = (torch.arange(fine, device=quad.device) + 0.5) / fine
    right, down = quad[3] - quad[0], quad[1] - quad[0]
    points = quad[0] + ticks[None, :, None] * right + ticks[:, None, None] * down
    extent = points.new_tensor([picture.shape[-1], picture.shape[-2]])
    cut = F.grid_sample(
        picture[None],
        (points / extent * 2 - 1)[None],
        padding_mode="reflection",
        align_corners=False,
    )
    return F.avg_pool2d(cut, _FINE)[0]


def photographed_crops(num: int, seed: int, size: int) -> Tensor:
    """Photograph scenes of one person and align the faces that dlib finds, as users' photographs.

    Args:
        num: Scenes; not every face is found.
        seed: See `demo.portraits.scene.sample_scenes`.
        size: Side of the crops in pixels.

    Returns:
        [at most num, 3, size, size] in [-1, 1].
    """
    finder, crops = FaceFinder(), list[Tensor]()
    for scene in sample_scenes(num, seed, people=1):
        picture = render_scenes([scene], _PHOTOGRAPH_SIZE)[0]
        for points in finder.landmarks(picture)[:1]:
            crop = align_face(to_image(picture), points.numpy(), _ALIGNED_SIZE)
            pixels = np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR), np.float32)
            crops.append(torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1)
    return torch.stack(crops) if crops else torch.empty(0, 3, size, size)
