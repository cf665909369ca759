"""The device of the tests is as strict as a real one."""

import numpy as np
import pytest
import torch

from other_device import Remote


def test_tensors_of_two_devices_do_not_mix(device):
    here, there = torch.ones(2, 3), torch.ones(2, 3, device=device)
    assert str(there.device) == "cuda:0"
    for mixed in (
        lambda: here + there,
        lambda: there @ here.T,
        lambda: torch.cat([here, there]),
        lambda: torch.nn.functional.conv2d(there[None, None], torch.ones(1, 1, 2, 2)),
        lambda: here[torch.zeros(1, dtype=torch.long, device=device)],
    ):
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            mixed()
    for array in (there.numpy, lambda: np.asarray(there)):
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            array()


def test_what_a_real_device_allows_is_allowed(device):
    there = torch.arange(6.0, device=device).reshape(2, 3)
    there[0] += torch.tensor(5.0)
    assert there[torch.tensor([1])].tolist() == [[3, 4, 5]]
    assert there.cpu().numpy().sum() == 30
    assert type(there.cpu()) is torch.Tensor
    assert isinstance(torch.tensor([1, 2], device=device), Remote)
    assert isinstance(there.new_tensor([1.0]), Remote)


def test_gradients_stay_there(device):
    weight = torch.ones(3, 2, device=device, requires_grad=True)
    (torch.ones(1, 3, device=device) @ weight).square().sum().backward()
    assert isinstance(weight.grad, Remote)
    assert weight.grad.tolist() == [[6, 6]] * 3
