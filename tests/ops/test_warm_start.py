import pytest
import torch

from styleclip_ops.errors import ConfigError, ShapeError
from styleclip_ops.generator import Generator
from styleclip_ops.warm_start import RandomFaces, draw_random_faces, prompt_offset

from conftest import PixelEmbedder


def test_random_faces_are_the_same_in_any_lot(generator: Generator, clip: PixelEmbedder) -> None:
    faces = draw_random_faces(generator, clip, 7, lot=7)
    others = draw_random_faces(generator, clip, 7, lot=3)
    torch.testing.assert_close(faces, others)
    assert faces.w.shape == (7, generator.config.w_dim)
    assert len({*map(str, faces.w.tolist())}) == 7
    images = generator(generator.w_to_w_plus(faces.w))
    torch.testing.assert_close(clip.embed_images(images), faces.clip)
    another = draw_random_faces(generator, clip, 7, seed=6)
    assert not torch.allclose(another.w, faces.w)


def test_one_random_face_is_too_few(generator: Generator, clip: PixelEmbedder) -> None:
    with pytest.raises(ConfigError, match="num_faces: got 1, expected at least 2"):
        draw_random_faces(generator, clip, 1)


def test_an_offset_goes_along_what_changes_with_the_similarity() -> None:
    random = torch.Generator().manual_seed(0)
    text = torch.tensor([0.0, 1.0, 0.0])
    cosine = torch.rand(4000, generator=random) * 2 - 1
    seen = torch.stack([(1 - cosine.square()).sqrt(), cosine, torch.zeros_like(cosine)], dim=1)
    slope = torch.tensor([2.0, 0.0, -1.0, 0.0])
    w = 5 + cosine[:, None] * slope + torch.randn(4000, 4, generator=random)
    offset = prompt_offset(RandomFaces(w, seen), text, deviations=3.0)
    torch.testing.assert_close(offset, 3 * cosine.std() * slope, atol=0.2, rtol=0)
    torch.testing.assert_close(
        prompt_offset(RandomFaces(w, seen), text, deviations=1.5), offset / 2
    )


def test_faces_that_are_equally_similar_tell_nothing() -> None:
    faces = RandomFaces(torch.randn(5, 4), torch.eye(3)[[0, 0, 0, 0, 0]])
    assert not prompt_offset(faces, torch.tensor([1.0, 0.0, 0.0])).any()


def test_an_embedding_of_another_clip_is_refused() -> None:
    with pytest.raises(ShapeError, match="text_embedding: got"):
        prompt_offset(RandomFaces(torch.randn(5, 4), torch.randn(5, 3)), torch.randn(4))
