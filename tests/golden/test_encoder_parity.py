"""The e4e encoder and ArcFace against the published implementations."""

import pytest
import torch

from styleclip_ops.checkpoints import load_arcface, load_e4e
from styleclip_ops.identity import ArcFace, face_crop
from styleclip_ops.losses import cosine_distance

from published import e4e_data, filled, golden, inp, torch_file


def photos(name: str) -> torch.Tensor:
    return golden(name)["photo_uint8"].permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.mark.parametrize("size", [256, 1024])
def test_e4e(size: int) -> None:
    name = f"e4e_{size}"
    arrays = golden(name)
    encoder = load_e4e(torch_file(e4e_data(size)))
    noise = 0.5 * inp("e4e_x_256", (2, 3, 256, 256))
    close = lambda got, want, atol: torch.testing.assert_close(got, want, atol=atol, rtol=0)  # noqa: E731
    close(encoder.offsets(noise), arrays["offsets_noise"], 1e-4)
    close(encoder(noise), arrays["wplus_noise"], 1e-4)
    close(encoder.offsets(photos(name)), arrays["offsets_photo"], 1e-4)
    close(encoder(photos(name)), arrays["wplus_photo"], 1e-4)
    c1, c2, c3 = encoder.features(noise[:1])
    close(c1[0, :4], arrays["c1_slice"], 1e-4)
    close(c2[0, :16], arrays["c2_slice"], 1e-4)
    close(c3[0, :64], arrays["c3_slice"], 1e-4)


@pytest.fixture(scope="module")
def arcface() -> ArcFace:
    return load_arcface(torch_file(filled("ir_se50")))


@pytest.mark.parametrize(("size", "batch"), [(256, 2), (1024, 1), (64, 1)])
def test_arcface(arcface: ArcFace, size: int, batch: int) -> None:
    arrays = golden("ir_se50")
    images = 0.5 * inp(f"id_{size}", (batch, 3, size, size))
    torch.testing.assert_close(arcface.embed(images), arrays[f"feats_{size}"], atol=1e-5, rtol=0)
    if size >= 256:
        crop = face_crop(images)
        torch.testing.assert_close(crop, arrays[f"crop112_{size}"], atol=1e-6, rtol=0)


def test_identity_loss(arcface: ArcFace) -> None:
    arrays = golden("ir_se50")
    embeddings = arcface.embed(photos("ir_se50"))
    torch.testing.assert_close(embeddings, arrays["feats_photo"], atol=1e-5, rtol=0)
    loss = cosine_distance(embeddings[1:], embeddings[:1]).mean()
    want = arrays["id_loss_photo_obama2_biden_vs_obama"]
    torch.testing.assert_close(loss, want, atol=1e-5, rtol=0)
    y = 0.5 * inp("id_256", (2, 3, 256, 256))
    y_hat = y + 0.3 * inp("id_256_delta", (2, 3, 256, 256))
    loss = cosine_distance(arcface.embed(y_hat), arcface.embed(y)).mean()
    torch.testing.assert_close(loss, arrays["id_loss_256_vs_delta03"], atol=1e-5, rtol=0)
