"""Mappers, their training, latent optimization and global directions against the published code."""

import numpy as np
import pytest
import torch
from torch import Tensor

from styleclip_ops.checkpoints import load_arcface, load_generator, load_mapper
from styleclip_ops.clip import area_resize
from styleclip_ops.direction import apply_direction, style_direction, text_direction
from styleclip_ops.generator import Generator
from styleclip_ops.identity import ArcFace
from styleclip_ops.losses import cosine_distance
from styleclip_ops.mapper_training import MapperLossConfig, mapper_loss, train_mapper
from styleclip_ops.optimize import (
    OptimizeConfig,
    OptimizeLoss,
    learning_rate,
    optimize_latents,
    optimize_style_codes,
)
from styleclip_ops.ranger import Ranger
from styleclip_ops.relevance import channel_clip_directions
from styleclip_ops.style_statistics import sample_style_codes, style_statistics

from published import (
    FakeClip,
    fake_text,
    filled,
    golden,
    golden_styles,
    inp,
    mapper_data,
    network_pickle,
    rosinality_data,
    torch_file,
)


def close(got: Tensor, want: Tensor, atol: float) -> None:
    torch.testing.assert_close(got, want, atol=atol, rtol=0)


@pytest.fixture(scope="module")
def generator() -> Generator:
    return load_generator(torch_file(rosinality_data(64)))


@pytest.fixture(scope="module")
def nvidia_256() -> Generator:
    return load_generator(network_pickle(256))


@pytest.fixture(scope="module")
def arcface() -> ArcFace:
    return load_arcface(torch_file(filled("ir_se50")))


# --- mappers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [18, 14, 10])
def test_levels_mapper(rows: int) -> None:
    arrays = golden("mappers")
    mapper = load_mapper(torch_file(mapper_data("mapper_levels")))
    w_plus = arrays[f"w_{rows}"]
    close(mapper(w_plus), arrays[f"levels_out_{rows}"], 1e-5)
    close(mapper.edit(w_plus), arrays[f"levels_what_{rows}"], 1e-5)


@pytest.mark.parametrize(
    ("level", "stem"), [("coarse", "course"), ("medium", "medium"), ("fine", "fine")]
)
def test_levels_mapper_without_a_level(level: str, stem: str) -> None:
    data = mapper_data("mapper_levels")
    data["state_dict"] = {
        key: value
        for key, value in data["state_dict"].items()
        if not key.startswith(f"mapper.{stem}_mapping")
    }
    arrays = golden("mappers")
    got = load_mapper(torch_file(data))(arrays["w_18"])
    close(got, arrays[f"levels_no_{level}_out_18"], 1e-5)


def test_single_mapper() -> None:
    arrays = golden("mappers")
    mapper = load_mapper(torch_file(mapper_data("mapper_single")))
    close(mapper(arrays["w_18"]), arrays["single_out_18"], 1e-5)
    close(mapper(arrays["w_18"][:, 0]), arrays["single_out_2d"], 1e-5)


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        ("mapper_full_stylespace", "full_out_cat"),
        ("mapper_stylespace_without_torgb", "without_torgb_out_cat"),
    ],
)
def test_style_space_mappers(spec: str, key: str) -> None:
    arrays = golden("mappers")
    mapper = load_mapper(torch_file(mapper_data(spec)))
    close(mapper(arrays["s_in_cat"]), arrays[key], 1e-5)


def test_mapper_training(generator: Generator, arcface: ArcFace) -> None:
    arrays = golden("mapper_train_64")
    mapper = load_mapper(torch_file(mapper_data("mapper_levels"))).requires_grad_()
    optimizer = Ranger(mapper.parameters(), lr=0.5)
    batches = (inp(f"train_w_{step}", (2, 10, 512)) for step in range(8))
    losses = []
    for loss in train_mapper(
        generator, FakeClip(), mapper, optimizer, batches, fake_text(), MapperLossConfig(), arcface
    ):
        losses.append(torch.stack(loss).double())
        weights = dict(mapper.named_parameters())
        if len(losses) == 1:
            gradient = weights["course_mapping.mapping.1.weight"].grad
            assert gradient is not None
            close(gradient[:8], arrays["grad0_course_mapping.mapping.1.weight_rows"], 1e-6)
        stem = f"param_after{len(losses)}"
        rows = weights["course_mapping.mapping.1.weight"].detach()[:4]
        close(rows, arrays[f"{stem}_course_mapping.mapping.1.weight_rows"], 1e-5)
        bias = weights["medium_mapping.mapping.2.bias"].detach()
        close(bias, arrays[f"{stem}_medium_mapping.mapping.2.bias"], 1e-5)
    close(torch.stack(losses), arrays["losses_total_id_clip_l2"], 1e-5)


def test_style_space_mapper_loss(arcface: ArcFace) -> None:
    # The golden loss was taken on given images, which a generator of 1024 px did not render.
    arrays = golden("mapper_sspace_loss")
    x, x_hat = arrays["x"], arrays["x_hat"]

    class GivenImages:
        layout = load_mapper(torch_file(mapper_data("mapper_full_stylespace"))).layout

        def synthesize(self, s: Tensor) -> Tensor:
            return x if torch.equal(s, styles) else x_hat

        forward = synthesize

    styles = golden("mappers")["s_in_cat"]
    mapper = load_mapper(torch_file(mapper_data("mapper_stylespace_without_torgb")))
    loss = mapper_loss(
        GivenImages(), FakeClip(), mapper, styles, fake_text(), MapperLossConfig(), arcface
    )
    close(torch.stack(loss).double(), arrays["loss"], 1e-5)


@pytest.mark.parametrize("lr", [0.5, 0.01])
def test_ranger_on_a_quadratic(lr: float) -> None:
    arrays = golden("ranger")
    p, q = torch.zeros(3, 4, requires_grad=True), torch.zeros(5, requires_grad=True)
    optimizer = Ranger([p, q], lr=lr)
    for step in range(50):
        loss = 0.5 * (arrays["quad_a"] * (p - arrays["quad_t"]).square()).sum()
        loss = loss + 0.5 * (arrays["quad_b"] * (q - arrays["quad_tb"]).square()).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        close(p.detach(), arrays[f"quad_lr{lr}_p"][step], 1e-5)
        close(q.detach(), arrays[f"quad_lr{lr}_q"][step], 1e-5)


def test_ranger_on_fixed_gradients() -> None:
    arrays = golden("ranger")
    p, q = inp("fix_p0", (2, 3, 2, 2)).requires_grad_(), inp("fix_q0", (5,)).requires_grad_()
    optimizer = Ranger([p, q], lr=0.5)
    for step in range(50):
        p.grad, q.grad = inp(f"fix_gp_{step}", (2, 3, 2, 2)), inp(f"fix_gq_{step}", (5,))
        optimizer.step()
        close(p.detach(), arrays["fixgrad_lr0.5_p"][step], 1e-5)
        close(q.detach(), arrays["fixgrad_lr0.5_q"][step], 1e-5)


# --- latent optimization ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_published_clip_preprocessing(size: int) -> None:
    arrays = golden(f"clip_pre_{size}")
    images = 0.5 * inp(f"clip_img_{size}", (1, 3, size, size))
    close(area_resize(images), arrays["out224"], 1e-5)
    loss = cosine_distance(FakeClip().embed_images(images), fake_text())
    close(loss, arrays["fakeclip_loss"][:, 0], 1e-5)


@pytest.mark.parametrize("steps", [300, 40])
def test_learning_rate(steps: int) -> None:
    want = golden("opt_lr")[f"lr_{steps}_init0p1"].tolist()
    config = OptimizeConfig(steps=steps, lr=0.1)
    assert [learning_rate(step, config) for step in range(steps)] == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize(("name", "id_lambda"), [("wplus", 0.005), ("wplus_noid", 0.0)])
def test_latent_optimization(
    generator: Generator, arcface: ArcFace, name: str, id_lambda: float
) -> None:
    arrays = golden(f"latent_opt_64_{name}")
    config = OptimizeConfig(steps=20, id_lambda=id_lambda, mode="published")
    losses: list[float] = []

    def record(step: int, loss: OptimizeLoss) -> None:
        assert step == len(losses)
        losses.append(loss.total.item())

    w_plus = optimize_latents(
        generator, FakeClip(), arrays["w0"], fake_text(), config, arcface, on_step=record
    )
    np.testing.assert_allclose(losses[:5], arrays["losses"][:5], atol=2e-4)
    np.testing.assert_allclose(losses, arrays["losses"], atol=5e-3)
    assert (w_plus - arrays["final_latent"]).square().mean().sqrt() < 5e-3
    close(generator(w_plus), arrays["result"][1:], 0.05)


def test_style_code_optimization(generator: Generator, arcface: ArcFace) -> None:
    arrays = golden("latent_opt_64_sspace")
    config = OptimizeConfig(steps=20, id_lambda=0.005, mode="published")
    losses: list[float] = []
    s = generator.w_plus_to_s(arrays["w0"])
    got = optimize_style_codes(
        generator,
        FakeClip(),
        s,
        fake_text(),
        config,
        arcface,
        on_step=lambda _, loss: losses.append(loss.total.item()),
    )
    np.testing.assert_allclose(losses[:5], arrays["losses"][:5], atol=2e-4)
    np.testing.assert_allclose(losses, arrays["losses"], atol=1e-2)
    want = golden_styles("latent_opt_64_sspace", "final_s_")
    assert (got - want).square().mean().sqrt() < 5e-3
    fixed = ~generator.layout.editable
    assert torch.equal(got[:, fixed], s[:, fixed])


# --- global directions --------------------------------------------------------------------------


def test_style_statistics(nvidia_256: Generator) -> None:
    name = "global_directions_256"
    statistics = style_statistics(nvidia_256, 300, truncation_cutoff=8)
    close(statistics.mean, golden_styles(name, "code_mean_")[0], 1e-5)
    close(statistics.std, golden_styles(name, "code_std_")[0], 1e-5)
    first = next(iter(sample_style_codes(nvidia_256, 3, truncation_cutoff=8)))
    close(first, golden_styles(name, "s_base_"), 1e-5)


class TemplateEmbeddings:
    """The golden text embeddings [79, 512] of the two prompts."""

    def embed_texts(self, texts: list[str]) -> Tensor:
        neutral = inp("text_neutral", (79, 512))
        target = inp("text_target", (79, 512)) + 5 * golden("global_directions_256")["fs_dir_u"]
        rows = target if "target" in texts[0] else neutral
        return torch.nn.functional.normalize(rows, dim=1)


def golden_channel_directions() -> Tensor:
    """The published reduction of the golden features [C, images, 2, E] to [C, E]."""
    arrays = golden("global_directions_256")
    features = inp("fs", (5760, 4, 2, 512))
    features[:, :, 1] += 6 * inp("fs_amp", (5760,))[:, None, None] * arrays["fs_dir_u"]
    features = torch.nn.functional.normalize(features, dim=-1)
    difference = torch.nn.functional.normalize(features[:, :, 1] - features[:, :, 0], dim=-1)
    return torch.nn.functional.normalize(difference.mean(dim=1), dim=-1)


def test_text_direction() -> None:
    got = text_direction(TemplateEmbeddings(), "neutral", "target")
    close(got, golden("global_directions_256")["dt"], 1e-5)


@pytest.mark.parametrize(("key", "beta"), [("b08", 0.08), ("b15", 0.15), ("b30", 0.30)])
def test_style_direction(nvidia_256: Generator, key: str, beta: float) -> None:
    name = "global_directions_256"
    arrays = golden(name)
    std = golden_styles(name, "code_std_")[0]
    directions = golden_channel_directions()
    close(directions[arrays["fs3_rows_idx"]], arrays["fs3_rows"], 1e-5)
    direction = style_direction(directions, arrays["dt"], std, nvidia_256.layout, beta=beta)
    close(direction, arrays[f"{key}_boundary_cat"], 1e-5)
    assert int((direction != 0).sum()) == int(arrays[f"{key}_numc"])
    s = golden_styles(name, "s_base_")
    for place, alpha in enumerate([-3.0, 4.1]):
        got = apply_direction(s, direction, alpha)
        close(got, arrays[f"{key}_codes_cat"][:, place], 1e-5)


def test_global_direction_images(nvidia_256: Generator) -> None:
    codes = golden("global_directions_256")["b15_codes_cat"][0]
    images = nvidia_256.synthesize(codes)
    levels = ((images + 1) * 127.5).clamp(0, 255).floor().permute(0, 2, 3, 1)
    want = golden("global_directions_256_img")["b15_alpha_m3_p41_uint8"]
    assert (levels - want).abs().max() <= 1


def test_published_relevance_loop() -> None:
    """Which images the published loop renders, its leftover channels included."""
    name = "global_relevance_loop_64"
    arrays = golden(name)
    generator = load_generator(network_pickle(64))
    layout = generator.layout
    mean, std = torch.zeros(layout.size), torch.zeros(layout.size)
    for index in (0, 2):
        mean[layout.layers[index].span] = arrays[f"code_mean_{index}"]
        std[layout.layers[index].span] = arrays[f"code_std_{index}"]
    channels = [layout.layers[index].start + channel for index, channel in arrays["order"].tolist()]
    seen: list[Tensor] = []

    class Recorder(FakeClip):
        def embed_images(self, images: Tensor) -> Tensor:
            seen.append(images)
            return super().embed_images(images)

    channel_clip_directions(
        generator,
        Recorder(),
        golden_styles(name, "s_"),
        std,
        torch.tensor(channels),
        mode="published",
        channel_mean=mean,
    )
    levels = ((torch.stack(seen) + 1) * 127.5).round().permute(0, 1, 3, 4, 2)
    # Ours goes image by image, theirs channel by channel.
    got = levels.reshape(3, 5, 2, 64, 64, 3).transpose(0, 1)
    difference = (got - arrays["images_uint8"]).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3
