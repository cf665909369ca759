import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from styleclip_ops.errors import CheckpointError, ConfigError, ShapeError
from styleclip_ops.lpips import Lpips, load_lpips
from styleclip_ops.metrics import (
    ImageEmbeddings,
    bootstrap_interval,
    clip_score,
    cosine_similarity,
    directional_similarity,
    edit_metrics,
    frechet_distance,
)

from published import torch_file


def units(count: int, seed: int = 0) -> Tensor:
    return normalize(torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)), dim=1)


@given(st.floats(-1, 1))
def test_clip_score(cosine: float) -> None:
    score = clip_score(torch.tensor([cosine])).item()
    assert score == pytest.approx(max(cosine, 0) * 100, abs=1e-4)


def test_directional_similarity_of_a_known_move() -> None:
    source, neutral, target = units(4), units(1, 1), units(1, 2)
    along = normalize(source + 1e-3 * (target - neutral), dim=1)
    want = []
    for row, moved in zip(source, along, strict=True):
        delta = moved - row
        want.append(
            torch.dot(delta, (target - neutral)[0]) / delta.norm() / (target - neutral).norm()
        )
    got = directional_similarity(source, along, neutral, target)
    torch.testing.assert_close(got, torch.stack(want), atol=1e-4, rtol=0)
    back = directional_similarity(along, source, neutral, target)
    torch.testing.assert_close(back, -got, atol=1e-4, rtol=0)


def test_a_vanishing_delta_has_no_direction() -> None:
    source, text = units(2), units(2, 1)
    edited = torch.stack([source[0], units(1, 3)[0]])
    got = directional_similarity(source, edited, text[:1], text[1:])
    assert got.isnan().tolist() == [True, False]
    assert directional_similarity(source, units(2, 3), text[:1], text[:1]).isnan().all()


def test_edit_metrics_keep_inversion_and_edit_apart() -> None:
    source, inversion, edited = (
        ImageEmbeddings(units(3, seed), units(3, seed + 10)) for seed in (1, 2, 3)
    )
    neutral, target = units(1, 4), units(1, 5)
    got = edit_metrics(source, inversion, edited, neutral, target)
    assert all(term.shape == (3,) for term in got)
    torch.testing.assert_close(got.clip_cosine, (edited.clip * target).sum(1))
    torch.testing.assert_close(got.image_inversion, (source.clip * inversion.clip).sum(1))
    torch.testing.assert_close(got.identity_edit, (inversion.identity * edited.identity).sum(1))
    torch.testing.assert_close(got.identity_total, (source.identity * edited.identity).sum(1))
    want = directional_similarity(inversion.clip, edited.clip, neutral, target)
    torch.testing.assert_close(got.directional_edit, want)
    want = directional_similarity(source.clip, edited.clip, neutral, target)
    torch.testing.assert_close(got.directional_total, want)


def test_shapes_are_checked() -> None:
    with pytest.raises(ShapeError, match=r"a\[None\]"):
        cosine_similarity(units(1)[0], units(1))
    with pytest.raises(ShapeError, match="b: got shape"):
        cosine_similarity(units(3), units(2))


def test_frechet_distance_of_gaussians() -> None:
    """Two normal distributions with diagonal covariance have the distance in closed form."""
    random = torch.Generator().manual_seed(0)
    a = torch.randn(40_000, 3, generator=random)
    b = torch.randn(40_000, 3, generator=random) * torch.tensor([1.0, 2.0, 0.5]) + 1.0
    got = frechet_distance(a, b)
    assert got.value == pytest.approx(3 + (1 - 2) ** 2 + (1 - 0.5) ** 2, rel=0.03)
    assert got.reliable
    assert frechet_distance(a, a).value == pytest.approx(0, abs=1e-6)


def test_frechet_distance_says_when_it_is_not_to_be_trusted() -> None:
    few = frechet_distance(torch.randn(50, 20), torch.randn(30, 20))
    assert (few.num_samples, few.reliable) == (30, False)
    with pytest.raises(ConfigError, match="1 samples"):
        frechet_distance(torch.randn(1, 3), torch.randn(5, 3))


def test_bootstrap_interval() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)) + 5
    interval = bootstrap_interval(values)
    half_width = 1.96 * values.std().item() / math.sqrt(400)
    assert interval.mean == pytest.approx(values.mean().item(), abs=1e-5)
    assert interval.low == pytest.approx(interval.mean - half_width, abs=0.03)
    assert interval.high == pytest.approx(interval.mean + half_width, abs=0.03)
    assert bootstrap_interval(values) == interval
    # Nobody knows how far one value is from others.
    one = bootstrap_interval(torch.tensor([2.0, torch.nan]))
    assert (one.mean, math.isnan(one.low), math.isnan(one.high)) == (2.0, True, True)
    # Of few values about as wide as Student's.
    few = values[:5]
    student = 2.776 * few.std().item() / math.sqrt(5)
    assert bootstrap_interval(few).high - few.mean().item() == pytest.approx(student, rel=0.15)
    with pytest.raises(ConfigError, match="got no number"):
        bootstrap_interval(torch.tensor([torch.nan]))


# --- LPIPS --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lpips_files() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    random = torch.Generator().manual_seed(0)
    shapes = {
        0: (64, 3, 11),
        3: (192, 64, 5),
        6: (384, 192, 3),
        8: (256, 384, 3),
        10: (256, 256, 3),
    }
    alexnet, linear = {}, {}
    for place, (out, inside, kernel) in shapes.items():
        weight = torch.randn(out, inside, kernel, kernel, generator=random)
        alexnet[f"features.{place}.weight"] = weight / math.sqrt(inside * kernel**2)
        alexnet[f"features.{place}.bias"] = 0.1 * torch.randn(out, generator=random)
    alexnet["classifier.1.weight"] = torch.zeros(2, 2)
    for index, place in enumerate(shapes):
        out = shapes[place][0]
        linear[f"lin{index}.model.1.weight"] = torch.rand(1, out, 1, 1, generator=random)
    return alexnet, linear


@pytest.fixture(scope="module")
def lpips(lpips_files: tuple[dict[str, Tensor], dict[str, Tensor]]) -> Lpips:
    return load_lpips(*map(torch_file, lpips_files))


def test_lpips_is_the_papers_formula(
    lpips: Lpips, lpips_files: tuple[dict[str, Tensor], dict[str, Tensor]]
) -> None:
    """Equation 1 of Zhang et al., position by position."""
    alexnet, linear = lpips_files
    functional = torch.nn.functional
    a, b = torch.rand(2, 1, 3, 256, 256, generator=torch.Generator().manual_seed(1)) * 2 - 1
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    x, y = (
        (image - shift) / torch.tensor([0.458, 0.448, 0.450])[:, None, None] for image in (a, b)
    )
    want = 0.0
    layers = [
        (0, 4, 2, False),
        (3, 1, 2, True),
        (6, 1, 1, True),
        (8, 1, 1, False),
        (10, 1, 1, False),
    ]
    for index, (place, stride, padding, pool) in enumerate(layers):
        if pool:
            x, y = functional.max_pool2d(x, 3, 2), functional.max_pool2d(y, 3, 2)
        weight, bias = alexnet[f"features.{place}.weight"], alexnet[f"features.{place}.bias"]
        x, y = (functional.conv2d(f, weight, bias, stride, padding).relu() for f in (x, y))
        weights = linear[f"lin{index}.model.1.weight"][0, :, 0, 0]
        total = 0.0
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                p, q = x[0, :, row, column], y[0, :, row, column]
                total += (weights * (p / (p.norm() + 1e-10) - q / (q.norm() + 1e-10)) ** 2).sum()
        want += total / (x.shape[2] * x.shape[3])
    assert lpips(a, b).item() == pytest.approx(float(want), rel=1e-4)


def test_lpips_of_equal_images_is_zero(lpips: Lpips) -> None:
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    assert (lpips(images, images) == 0).all()
    noisy = lpips(images, images + 0.1 * torch.randn_like(images))
    assert (lpips(images, images + 0.5 * torch.randn_like(images)) > noisy).all()
    with pytest.raises(ShapeError, match="b: got"):
        lpips(images, images[:1])


def test_lpips_files_are_checked(lpips_files: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
    alexnet, linear = lpips_files
    partial = {name: value for name, value in linear.items() if "lin3" not in name}
    with pytest.raises(CheckpointError, match=r"missing tensor linear\.3"):
        load_lpips(torch_file(alexnet), torch_file(partial))
