import pytest
import torch
import torch.nn.functional as F

from styleclip_ops import convolution
from styleclip_ops.convolution import conv3x3, phases_pay, upsample_conv3x3, winograd_pays


@pytest.mark.parametrize("size", [16, 64, 96])
def test_equals_the_direct_form_with_its_gradient(size: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, size, size, requires_grad=True)
    weight, bias = torch.randn(5, 6, 3, 3), torch.randn(5)
    got, want = conv3x3(x, weight, bias), F.conv2d(x, weight, bias, padding=1)
    torch.testing.assert_close(got, want, atol=1e-3, rtol=0)
    upstream = torch.randn_like(want)
    (gradient,) = torch.autograd.grad(got, x, upstream)
    (direct,) = torch.autograd.grad(want, x, upstream)
    torch.testing.assert_close(gradient, direct, atol=1e-3, rtol=0)


def test_an_image_of_a_batch_is_the_same_alone() -> None:
    x = torch.randn(3, 4, 64, 64)
    weight = torch.randn(4, 4, 3, 3)
    assert winograd_pays(x)
    assert torch.equal(conv3x3(x, weight)[1:2], conv3x3(x[1:2], weight))


@pytest.mark.parametrize(("channels", "size", "by_phases"), [(512, 32, True), (8, 32, False)])
def test_upsampling_equals_the_transposed_convolution(
    channels: int, size: int, by_phases: bool
) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, channels, size, size), torch.randn(6, channels, 3, 3)
    assert phases_pay(x, weight) == by_phases
    want = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    torch.testing.assert_close(upsample_conv3x3(x, weight), want, atol=2e-4, rtol=1e-4)
    # What is differentiated goes the way that torch differentiates best.
    assert not phases_pay(x.requires_grad_(), weight)


def test_kernels_in_training_get_their_gradient() -> None:
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    bias = torch.randn(4, requires_grad=True)
    conv3x3(torch.randn(1, 3, 64, 64), weight, bias).square().sum().backward()
    conv3x3(torch.randn(1, 3, 64, 64), weight.detach(), bias).square().sum().backward()
    for trained in (weight, bias):
        assert trained.grad is not None
        assert (trained.grad != 0).all()


def test_only_what_it_pays_for() -> None:
    assert not winograd_pays(torch.zeros(1, 4, 32, 32))
    assert not winograd_pays(torch.zeros(1, 4, 64, 64, dtype=torch.bfloat16))
    assert not winograd_pays(torch.zeros(1, 4, 64, 64, device="meta"))


def test_any_torch_without_it_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "_HAS_NNPACK", False)
    assert not winograd_pays(torch.zeros(1, 4, 64, 64))
    assert conv3x3(torch.ones(1, 1, 64, 64), torch.ones(1, 1, 3, 3))[0, 0, 5, 5] == 9
