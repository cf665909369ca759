"""The style space against the published channel indices, for 64 to 1024 px."""

import json

import pytest
import torch

from styleclip_ops.generator import GeneratorConfig
from styleclip_ops.stylespace import StyleSpaceLayout

from published import DATA

PUBLISHED = json.loads((DATA / "channel_layout.json").read_text())


@pytest.mark.parametrize("size", [64, 128, 256, 512, 1024])
def test_layout(size: int) -> None:
    want = PUBLISHED[str(size)]
    config = GeneratorConfig.from_channel_multiplier(size)
    layout = StyleSpaceLayout.from_channels(config.channels)
    assert [layer.name for layer in layout.layers] == want["s_names"]
    assert [layer.channels for layer in layout.layers] == want["s_dims"]
    assert layout.size == want["total_s_channels"]
    torgb = [i for i, layer in enumerate(layout.layers) if layer.is_torgb]
    assert torgb == want["torgb_indices"]
    assert len(layout.editable_channels) == want["fs3_rows_all_non_torgb"]
    for index, (start, stop) in want["fs3_row_offset"].items():
        layer = layout.layers[int(index)]
        rows = layout.editable_channels[start:stop]
        assert torch.equal(rows, torch.arange(layer.start, layer.stop))
