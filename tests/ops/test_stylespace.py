from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from styleclip_ops.errors import ConfigError, ShapeError
from styleclip_ops.stylespace import StyleSpaceLayout

widths = st.lists(st.integers(1, 9), min_size=2, max_size=9)


@given(widths, st.integers(0, 3))
def test_split_then_join_is_the_identity(channels: list[int], batch: int) -> None:
    layout = StyleSpaceLayout.from_channels(channels)
    s = torch.arange(batch * layout.size, dtype=torch.float32).reshape(batch, layout.size)
    assert torch.equal(layout.join(layout.split(s)), s)


@given(widths)
def test_layers_tile_the_style_code(channels: list[int]) -> None:
    layout = StyleSpaceLayout.from_channels(channels)
    assert layout.layers[0].start == 0
    for layer, following in pairwise(layout.layers):
        assert layer.stop == following.start
    assert layout.layers[-1].stop == layout.size
    assert layout.num_ws == 2 * len(channels)
    assert layout.resolution == 4 << (len(channels) - 1)
    torgb = sum(layer.channels for layer in layout.layers if layer.is_torgb)
    assert int(layout.editable.sum()) == layout.size - torgb == len(layout.editable_channels)


@given(widths)
def test_a_torgb_shares_its_w_with_the_next_upsampling(channels: list[int]) -> None:
    layers = StyleSpaceLayout.from_channels(channels).layers
    for layer, following in pairwise(layers):
        shared = layer.is_torgb
        assert following.w_index == layer.w_index + (0 if shared else 1)


@given(widths)
def test_layout_tells_its_channels(channels: list[int]) -> None:
    layout = StyleSpaceLayout.from_channels(channels)
    assert StyleSpaceLayout.from_channels(layout.channels) == layout


@pytest.mark.parametrize("channels", [[], [8], [8, 0], [8, 8.0], [8] * 10])
def test_channels_of_no_generator_are_refused(channels: list[int]) -> None:
    with pytest.raises(ConfigError, match="channels: got"):
        StyleSpaceLayout.from_channels(channels)


def test_a_style_code_of_another_generator_is_refused() -> None:
    layout = StyleSpaceLayout.from_channels([4, 3])
    with pytest.raises(ShapeError, match=r"got shape \[1, 5\].*8 px"):
        layout.split(torch.zeros(1, 5))
    with pytest.raises(ShapeError, match="expected"):
        layout.join([torch.zeros(1, 4)])
