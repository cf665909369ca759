"""Networks get lots of one size, and what is filled up does not come back."""

import pytest
import torch
from torch import Tensor

from styleclip_ops.lots import fill_up, in_lots, lot_size, optimization_lot_size


@pytest.mark.parametrize("count", [1, 3, 4, 5])
def test_every_lot_is_whole(count: int) -> None:
    values, seen = torch.randn(count, 3), list[int]()

    def double(part: Tensor) -> Tensor:
        seen.append(len(part))
        return part * 2

    assert torch.equal(in_lots(double, values, 4), values * 2)
    assert seen == [4] * -(-count // 4)


def test_the_last_item_fills_up() -> None:
    assert fill_up(5, 3) == [0, 1, 2, 3, 4, 4]
    assert fill_up(6, 3) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("device", "sizes"), [("cpu", [8, 8, 2, 2, 2]), ("cuda", [16, 16, 16, 8, 2])]
)
def test_a_lot_has_as_many_images_as_gain_from_it(device: str, sizes: list[int]) -> None:
    resolutions = (64, 128, 256, 512, 1024)
    assert [lot_size(pixels, torch.device(device)) for pixels in resolutions] == sizes
    most = 4 if device == "cpu" else 16
    found = [optimization_lot_size(pixels, torch.device(device)) for pixels in resolutions]
    assert found == [min(size, most) for size in sizes]
