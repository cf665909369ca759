import pytest
import torch
from torch import Tensor

from styleclip_ops.errors import ConfigError, ShapeError
from styleclip_ops.generator import Generator
from styleclip_ops.losses import SourceIdentities
from styleclip_ops.mapper import (
    FullStyleSpaceMapper,
    LevelsMapper,
    Mapper,
    SingleMapper,
    WithoutToRGBStyleSpaceMapper,
)
from styleclip_ops.mapper_training import (
    MapperLossConfig,
    SourceBatch,
    mapper_loss,
    train_mapper,
)
from styleclip_ops.ranger import Ranger

from conftest import FaceEmbedder, PixelEmbedder


def mappers(generator: Generator) -> list[tuple[Mapper, bool]]:
    return [
        (LevelsMapper(w_dim=28), False),
        (LevelsMapper(fine=False, w_dim=28), False),
        (SingleMapper(w_dim=28), False),
        (FullStyleSpaceMapper(generator.layout), True),
        (WithoutToRGBStyleSpaceMapper(generator.layout), True),
    ]


def test_a_batch_equals_a_loop(generator: Generator, w_plus: Tensor, s: Tensor) -> None:
    for mapper, in_style_space in mappers(generator):
        latents = s if in_style_space else w_plus
        loop = torch.cat([mapper.edit(row[None]) for row in latents])
        torch.testing.assert_close(mapper.edit(latents), loop, atol=1e-5, rtol=0)


def test_strength_zero_is_the_identity(generator: Generator, w_plus: Tensor, s: Tensor) -> None:
    for mapper, in_style_space in mappers(generator):
        latents = s if in_style_space else w_plus
        assert torch.equal(mapper.edit(latents, strength=0.0), latents)
        torch.testing.assert_close(mapper.edit(latents), latents + 0.1 * mapper(latents))


def test_what_is_left_out_stays(generator: Generator, w_plus: Tensor, s: Tensor) -> None:
    offset = LevelsMapper(medium=False, w_dim=28)(w_plus)
    assert (offset[:, 4:8] == 0).all()
    assert (offset[:, :4] != 0).any()
    offset = WithoutToRGBStyleSpaceMapper(generator.layout)(s)
    assert (offset[:, ~generator.layout.editable] == 0).all()
    assert (offset[:, generator.layout.editable] != 0).any()


def test_a_missing_batch_axis_says_so() -> None:
    with pytest.raises(ShapeError, match=r"\[18, 512\].*w_plus\[None\]"):
        LevelsMapper().edit(torch.zeros(18, 512))
    with pytest.raises(ShapeError, match=r"\[18, 512\].*w_plus\[None\]"):
        SingleMapper().edit(torch.zeros(18, 512))


def test_no_level_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected at least one of"):
        LevelsMapper(coarse=False, medium=False, fine=False)


@pytest.mark.parametrize("in_style_space", [False, True])
def test_training_lowers_the_loss(
    generator: Generator,
    clip: PixelEmbedder,
    identity: FaceEmbedder,
    w_plus: Tensor,
    s: Tensor,
    in_style_space: bool,
) -> None:
    torch.manual_seed(0)
    mapper = (
        WithoutToRGBStyleSpaceMapper(generator.layout) if in_style_space else LevelsMapper(w_dim=28)
    )
    latents = s if in_style_space else w_plus
    text = clip.embed_texts(["a smiling face"])
    losses = [
        loss.total.item()
        for loss in train_mapper(
            generator,
            clip,
            mapper,
            Ranger(mapper.parameters(), lr=10.0),
            iter([latents] * 60),
            text,
            MapperLossConfig(l2_lambda=0.1),
            identity,
        )
    ]
    assert losses[-1] < losses[0] - 0.05


def test_known_source_identity_gives_the_same_loss(
    generator: Generator, clip: PixelEmbedder, identity: FaceEmbedder, w_plus: Tensor
) -> None:
    mapper = LevelsMapper(w_dim=28)
    text = clip.embed_texts(["a smiling face"])[0]
    arguments = (generator, clip, mapper, w_plus, text, MapperLossConfig(), identity)
    known = identity.embed(generator(w_plus))
    for got, want in zip(mapper_loss(*arguments, known), mapper_loss(*arguments), strict=True):
        torch.testing.assert_close(got, want)


def test_training_with_known_identities_is_the_same_and_renders_each_source_once(
    generator: Generator, clip: PixelEmbedder, identity: FaceEmbedder, w_plus: Tensor
) -> None:
    text = clip.embed_texts(["angry"])
    rendered: list[int] = []

    def render(row: int) -> Tensor:
        rendered.append(row)
        return generator(w_plus[row : row + 1])

    sources = SourceIdentities(identity, render)
    rows = [[0, 1], [1, 2], [2, 0]]
    plain = [w_plus[some] for some in rows]
    known = [SourceBatch(w_plus[some], sources.of(some)) for some in rows]

    def losses(batches: list[Tensor] | list[SourceBatch]) -> Tensor:
        torch.manual_seed(0)
        mapper = LevelsMapper(w_dim=28)
        optimizer = Ranger(mapper.parameters(), lr=0.5)
        training = train_mapper(
            generator,
            clip,
            mapper,
            optimizer,
            iter([*batches]),
            text,
            MapperLossConfig(id_lambda=1.0),
            identity,
        )
        return torch.stack([loss.total for loss in training])

    torch.testing.assert_close(losses(known), losses(plain), atol=1e-4, rtol=0)
    assert rendered == [0, 1, 2]


def test_an_identity_weight_needs_an_identity_network(
    generator: Generator, clip: PixelEmbedder, w_plus: Tensor
) -> None:
    text = clip.embed_texts(["old"])
    with pytest.raises(ConfigError, match="id_lambda=0.1.*set id_lambda=0"):
        mapper_loss(generator, clip, LevelsMapper(w_dim=28), w_plus, text, MapperLossConfig())
    with pytest.raises(ConfigError, match="clip_lambda: got -1"):
        MapperLossConfig(clip_lambda=-1)


def test_ranger_resumes_from_its_state() -> None:
    def run(split: int | None) -> Tensor:
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
        optimizer = Ranger([weight], lr=0.1)
        for step in range(20):
            if step == split:
                state, weight = optimizer.state_dict(), torch.nn.Parameter(weight.detach().clone())
                optimizer = Ranger([weight], lr=0.1)
                optimizer.load_state_dict(state)
            weight.grad = (weight.detach() * (step + 1)).sin()
            optimizer.step()
        return weight.detach()

    assert torch.equal(run(None), run(7))


def test_ranger_refuses_bad_values() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ConfigError, match="lr 0"):
        Ranger([weight], lr=0)
    with pytest.raises(ConfigError, match="betas"):
        Ranger([weight], betas=(1.0, 0.9))
