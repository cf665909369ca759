from copy import deepcopy

import pytest
import torch
from torch import Tensor

from styleclip_ops.errors import ConfigError, ShapeError
from styleclip_ops.generator import Generator
from styleclip_ops.losses import cosine_distance
from styleclip_ops.optimize import (
    OptimizeConfig,
    OptimizeLoss,
    learning_rate,
    optimize_latents,
    optimize_style_codes,
)

from conftest import FaceEmbedder, PixelEmbedder

CONFIG = OptimizeConfig(steps=12, lr=0.05, id_lambda=0.01)


@pytest.fixture
def text(clip: PixelEmbedder) -> Tensor:
    return clip.embed_texts(["a face with a beard"])


@pytest.mark.parametrize("mode", ["best", "published"])
def test_a_batch_equals_a_loop(
    generator: Generator,
    clip: PixelEmbedder,
    identity: FaceEmbedder,
    w_plus: Tensor,
    text: Tensor,
    mode: str,
) -> None:
    config = OptimizeConfig(steps=12, lr=0.05, id_lambda=0.01, mode=mode)  # type: ignore[arg-type]
    double = deepcopy(generator).double()
    latents = w_plus.double()
    batch = optimize_latents(double, clip, latents, text.double(), config, identity)
    loop = torch.cat(
        [
            optimize_latents(double, clip, row[None], text.double(), config, identity)
            for row in latents
        ]
    )
    torch.testing.assert_close(batch, loop, atol=1e-6, rtol=0)


def test_each_image_has_its_own_target(
    generator: Generator, clip: PixelEmbedder, w_plus: Tensor
) -> None:
    texts = clip.embed_texts(["old", "smiling"])
    config = OptimizeConfig(steps=8, lr=0.05)
    both = optimize_latents(generator, clip, w_plus[:2], texts, config)
    second = optimize_latents(generator, clip, w_plus[1:2], texts[1], config)
    torch.testing.assert_close(both[1:], second, atol=1e-3, rtol=0)


def test_the_best_latent_renders_the_lowest_loss_seen(
    generator: Generator, clip: PixelEmbedder, w_plus: Tensor, text: Tensor
) -> None:
    config = OptimizeConfig(steps=15, lr=0.8, l2_lambda=0.0, patience=0)
    seen: list[Tensor] = []

    def record(step: int, loss: OptimizeLoss) -> None:
        assert step == len(seen)
        seen.append(loss.total)

    got = optimize_latents(generator, clip, w_plus, text, config, on_step=record)
    loss = cosine_distance(clip.embed_images(generator(got)), text)
    best = torch.stack(seen).min(dim=0).values
    torch.testing.assert_close(loss, best, atol=1e-5, rtol=0)
    assert (best < seen[0]).all()


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_rows_that_are_finished_make_room_for_the_next(
    generator: Generator,
    clip: PixelEmbedder,
    identity: FaceEmbedder,
    w_plus: Tensor,
    batch_size: int,
) -> None:
    config = OptimizeConfig(steps=30, lr=0.2, id_lambda=0.01, patience=3)
    double = deepcopy(generator).double()
    latents, texts = w_plus.double(), clip.embed_texts(["a", "b", "c", "d", "e"]).double()
    together = optimize_latents(double, clip, latents, texts, config, identity)
    at_work: list[int] = []
    pooled = optimize_latents(
        double,
        clip,
        latents,
        texts,
        config,
        identity,
        batch_size=batch_size,
        on_step=lambda _, loss: at_work.append(int(loss.total.isfinite().sum())),
    )
    torch.testing.assert_close(pooled, together, atol=1e-6, rtol=0)
    assert max(at_work) == min(batch_size, 5)
    # Room is filled while rows wait, and converged rows need fewer steps than allowed.
    assert sum(at_work) < 5 * 30
    assert len(at_work) >= sum(at_work) / batch_size


def test_a_row_that_converged_is_finished_and_keeps_its_best(
    generator: Generator, clip: PixelEmbedder, w_plus: Tensor, text: Tensor
) -> None:
    seen: list[Tensor] = []
    config = OptimizeConfig(steps=200, lr=0.2, patience=4)
    got = optimize_latents(
        generator, clip, w_plus, text, config, on_step=lambda _, loss: seen.append(loss.total)
    )
    losses = torch.stack(seen)
    assert len(losses) < 200
    assert losses[-1].isnan().any() or len(w_plus) == 1
    l2 = config.l2_lambda * (got - w_plus).square().flatten(1).sum(dim=1)
    loss = cosine_distance(clip.embed_images(generator(got)), text) + l2
    best = losses.nan_to_num(nan=torch.inf).min(dim=0).values
    torch.testing.assert_close(loss, best, atol=1e-4, rtol=0)


def test_style_codes_keep_their_toRGB(
    generator: Generator, clip: PixelEmbedder, identity: FaceEmbedder, s: Tensor, text: Tensor
) -> None:
    got = optimize_style_codes(generator, clip, s, text, CONFIG, identity)
    editable = generator.layout.editable
    assert torch.equal(got[:, ~editable], s[:, ~editable])
    before = cosine_distance(clip.embed_images(generator.synthesize(s)), text)
    after = cosine_distance(clip.embed_images(generator.synthesize(got)), text)
    assert (after < before).all()


def test_distance_to_the_source_is_penalised(
    generator: Generator, clip: PixelEmbedder, w_plus: Tensor, text: Tensor
) -> None:
    def moved(l2_lambda: float) -> float:
        config = OptimizeConfig(steps=12, lr=0.05, l2_lambda=l2_lambda, mode="published")
        return (optimize_latents(generator, clip, w_plus, text, config) - w_plus).norm().item()

    assert moved(10.0) < moved(0.0)


def test_inputs_are_left_alone(
    generator: Generator, clip: PixelEmbedder, w_plus: Tensor, text: Tensor
) -> None:
    before = w_plus.clone()
    optimize_latents(generator, clip, w_plus, text, OptimizeConfig(steps=3))
    assert torch.equal(w_plus, before)
    assert all(parameter.grad is None for parameter in generator.parameters())


def test_optimization_works_where_gradients_are_off(
    generator: Generator, clip: PixelEmbedder, w_plus: Tensor, text: Tensor
) -> None:
    with torch.no_grad():
        got = optimize_latents(generator, clip, w_plus, text, OptimizeConfig(steps=4))
    assert not torch.equal(got, w_plus)
    assert not got.requires_grad


def test_the_ramp_starts_and_ends_at_zero() -> None:
    config = OptimizeConfig(steps=100, lr=0.2)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(0.2)
    assert rates[-1] < 0.01 * 0.2


def test_bad_input(generator: Generator, clip: PixelEmbedder, w_plus: Tensor, text: Tensor) -> None:
    with pytest.raises(ShapeError, match=r"w_plus\[None\]"):
        optimize_latents(generator, clip, w_plus[0], text, CONFIG)
    with pytest.raises(ShapeError, match=r"text_embeddings: got shape \[2, 12\].*5 images"):
        optimize_latents(generator, clip, w_plus, text.repeat(2, 1), CONFIG)
    with pytest.raises(ShapeError, match="embeddings: got lengths 12 and 7"):
        optimize_latents(generator, clip, w_plus, torch.ones(1, 7), OptimizeConfig(steps=1))
    with pytest.raises(ConfigError, match="identity: got none with id_lambda=0.01"):
        optimize_latents(generator, clip, w_plus, text, CONFIG)


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"steps": 2.5},
        {"lr": 0.0},
        {"l2_lambda": float("nan")},
        {"mode": "fastest"},
        {"patience": -1},
    ],
)
def test_bad_configuration(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(options))}: got"):
        OptimizeConfig(**options)  # type: ignore[arg-type]


def test_a_start_is_what_the_descent_begins_with_and_stays_near(
    generator: Generator,
    clip: PixelEmbedder,
    identity: FaceEmbedder,
    w_plus: Tensor,
    s: Tensor,
    text: Tensor,
) -> None:
    seen: list[OptimizeLoss] = []
    one = OptimizeConfig(steps=1, id_lambda=0.01)
    start = w_plus + 0.5
    got = optimize_latents(
        *(generator, clip, w_plus, text, one, identity),
        start=start,
        on_step=lambda _, loss: seen.append(loss),
    )
    torch.testing.assert_close(got, start)
    assert not seen[0].l2.any()
    # The person to keep is that of the source.
    assert (seen[0].identity > 1e-4).all()
    codes = optimize_style_codes(
        generator, clip, s, text, one, identity, start=generator.w_plus_to_s(start)
    )
    editable = generator.layout.editable
    torch.testing.assert_close(codes[:, editable], generator.w_plus_to_s(start)[:, editable])
    torch.testing.assert_close(codes[:, ~editable], s[:, ~editable])


def test_a_start_of_another_shape_is_refused(
    generator: Generator, clip: PixelEmbedder, w_plus: Tensor, s: Tensor, text: Tensor
) -> None:
    config = OptimizeConfig(steps=1)
    with pytest.raises(ShapeError, match="start: got"):
        optimize_latents(generator, clip, w_plus, text, config, start=w_plus[:1])
    with pytest.raises(ShapeError, match="start: got"):
        optimize_style_codes(generator, clip, s, text, config, start=s[:, 1:])
