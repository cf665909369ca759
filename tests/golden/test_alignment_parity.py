"""The FFHQ crop against the published recipe, on real photographs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from styleclip_ops.alignment import align_face, ffhq_quad

from published import golden

ASTRONAUT = Path(__file__).parents[2] / "demo" / "photos" / "astronaut.png"


def photograph(name: str) -> Image.Image:
    arrays = golden(name)
    if "source_rgb" in arrays:
        return Image.fromarray(arrays["source_rgb"].numpy())
    return Image.open(ASTRONAUT)


CASES = [
    ("astronaut", "det0_"),  # a face well inside the picture
    ("astronaut", "det1_"),  # a false detection, small
    ("obama_tight", "det0_"),  # padded on all sides
    ("astronaut_tight", "det0_"),  # small and padded
]


@pytest.mark.parametrize(("name", "detection"), CASES)
def test_crop(name: str, detection: str) -> None:
    arrays = golden(name)
    landmarks = arrays[f"{detection}landmarks"].numpy()
    np.testing.assert_allclose(ffhq_quad(landmarks), arrays[f"{detection}quad"].numpy(), atol=1e-9)
    crop = align_face(photograph(name), landmarks, 256)
    difference = np.abs(np.int16(crop) - arrays[f"{detection}aligned_e4e_256"].numpy())
    assert difference.max() <= 1


@pytest.mark.parametrize("name", ["obama_tight", "astronaut_tight"])
def test_ffhq_crop_at_full_size(name: str) -> None:
    arrays = golden(name)
    crop = align_face(photograph(name), arrays["landmarks"].numpy(), 1024, transform_size=4096)
    reduced = crop.resize((256, 256), Image.Resampling.LANCZOS)
    assert np.abs(np.int16(reduced) - arrays["ffhq1024_lanczos256"].numpy()).max() <= 1
    pixels = torch.from_numpy(np.float32(crop)).permute(2, 0, 1)
    area = torch.nn.functional.adaptive_avg_pool2d(pixels, 64).permute(1, 2, 0)
    torch.testing.assert_close(area, arrays["ffhq1024_area64"], atol=0.5, rtol=0)
    detail = np.int16(crop)[512:576, 512:576]
    assert np.abs(detail - arrays["ffhq1024_crop_y512_x512_64"].numpy()).max() <= 1
