"""The renderer: values, independence of the batch, and what each attribute changes."""

from dataclasses import replace

import pytest
import torch

from demo.portraits.attributes import Portrait
from demo.portraits.render import render_portraits
from demo.portraits.sampling import sample_portraits

# rows and columns of the picture, as shares of its side
EYES = (slice(0.36, 0.58), slice(0.2, 0.8))
MOUTH = (slice(0.66, 0.84), slice(0.3, 0.7))
TOP = (slice(0.0, 0.3), slice(0.1, 0.9))


def pixels(share: slice, size: int) -> slice:
    return slice(round(share.start * size), round(share.stop * size))


@pytest.mark.parametrize("size", [64, 100, 128])
def test_values_shape_and_type(size):
    pictures = render_portraits(sample_portraits(3, seed=1), size)
    assert pictures.shape == (3, 3, size, size)
    assert pictures.dtype == torch.float32
    assert pictures.min() >= -1
    assert pictures.max() <= 1
    assert pictures.flatten(1).std(1).min() > 0.1


def test_picture_does_not_depend_on_the_batch():
    portraits = sample_portraits(24, seed=2)
    together = render_portraits(portraits, 64)
    alone = torch.cat([render_portraits([p], 64) for p in portraits])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert torch.equal(together, render_portraits(portraits, 64))


@pytest.mark.parametrize(
    ("change", "region"),
    [
        ({"glasses": "glasses"}, EYES),
        ({"glasses": "sunglasses"}, EYES),
        ({"lipstick": "lipstick"}, MOUTH),
        ({"hat": "beanie"}, TOP),
        ({"hat": "brimmed"}, TOP),
    ],
)
def test_attribute_changes_its_region(change, region):
    for base in (Portrait(), Portrait(hair_style="bald", yaw=0.6)):
        pair = render_portraits([base, replace(base, **change)], 64)
        difference = (pair[0] - pair[1]).abs().amax(0)
        rows, columns = pixels(region[0], 64), pixels(region[1], 64)
        inside = difference[rows, columns].sum()
        assert inside > 15
        assert inside > 0.8 * difference.sum()


def test_expression_leaves_backdrop_and_hair_alone():
    neutral, smiling = (
        render_portraits([replace(Portrait(), expression=e)], 64)[0] for e in ("neutral", "smiling")
    )
    difference = (neutral - smiling).abs().amax(0)
    rows, columns = pixels(MOUTH[0], 64), pixels(MOUTH[1], 64)
    assert difference[rows, columns].mean() > 5 * difference[:8].mean()


def test_sizes_show_the_same_picture():
    portrait = sample_portraits(1, seed=5)
    small = render_portraits(portrait, 64)
    shrunk = torch.nn.functional.avg_pool2d(render_portraits(portrait, 256), 4)
    assert (small - shrunk).abs().mean() < 0.03


def test_tiny_sizes_are_refused():
    with pytest.raises(ValueError, match="size: got 8, expected at least 16 pixels"):
        render_portraits([Portrait()], 8)
