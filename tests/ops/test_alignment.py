import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from styleclip_ops.alignment import align_face, ffhq_quad
from styleclip_ops.errors import ConfigError, ShapeError


def landmarks(x: float = 200, y: float = 200, scale: float = 1.0, roll: float = 0.0) -> np.ndarray:
    """A face with its eyes 80 px apart and its mouth 80 px below them."""
    points = np.zeros((68, 2))
    points[36:42], points[42:48] = (-40, 0), (40, 0)
    points[48], points[54] = (-25, 80), (25, 80)
    angle = np.deg2rad(roll)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return points @ rotation * scale + (x, y)


@given(st.floats(-180, 180), st.floats(0.2, 5), st.floats(-500, 500))
def test_the_quad_is_a_square_that_moves_with_the_face(roll: float, scale: float, x: float) -> None:
    quad = ffhq_quad(landmarks(x=x, roll=roll, scale=scale))
    sides = np.linalg.norm(quad - np.roll(quad, 1, axis=0), axis=1)
    np.testing.assert_allclose(sides, sides[0])
    upright = ffhq_quad(landmarks(x=0, y=0))
    angle = np.deg2rad(roll)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(quad, upright @ rotation * scale + (x, 200), atol=1e-6)


def test_an_upright_face_is_cut_out_without_change() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    # Eye line and face axis of 80 px give a square of 2 * max(2 * 80, 1.8 * 80) = 320 px.
    quad = ffhq_quad(landmarks(x=250, y=242))
    np.testing.assert_allclose(quad, [[90, 90], [90, 410], [410, 410], [410, 90]])
    crop = np.asarray(align_face(Image.fromarray(pixels), landmarks(x=250, y=242), 320))
    # The warp samples between pixel centres, half a pixel off.
    middle = pixels.astype(float)
    want = (middle[90:410, 90:410] + middle[91:411, 90:410] + middle[90:410, 91:411] + middle[91:411, 91:411]) / 4  # fmt: skip  # noqa: E501
    assert np.abs(crop - want).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = Image.new("RGB", (400, 400), (120, 130, 140)).convert(mode)
    crop = align_face(image, landmarks(), 64)
    assert (crop.mode, crop.size) == ("RGB", (64, 64))


def test_a_large_face_is_reduced_first() -> None:
    image = Image.effect_noise((1200, 1200), 60).convert("RGB")
    crop = align_face(image, landmarks(x=600, y=560, scale=3), 64)
    # Averaged noise is nearly flat; sampled noise is not.
    assert np.asarray(crop, float).std() < 15


def test_bad_input() -> None:
    image = Image.new("RGB", (400, 400))
    with pytest.raises(ShapeError, match=r"got shape \[5, 2\], expected \[68, 2\]"):
        align_face(image, np.zeros((5, 2)))
    with pytest.raises(ConfigError, match="fall together"):
        align_face(image, np.zeros((68, 2)))
    with pytest.raises(ConfigError, match="NaN"):
        align_face(image, np.full((68, 2), np.nan))
    with pytest.raises(ConfigError, match="outside the photograph of 400 x 400 px"):
        align_face(image, landmarks(x=5000))
    with pytest.raises(ConfigError, match="face of 1.6 px, expected at least 8 px"):
        align_face(image, landmarks(scale=0.005))
    with pytest.raises(ConfigError, match="transform_size 64"):
        align_face(image, landmarks(), 128, transform_size=64)
