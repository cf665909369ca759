"""CLIP: both published containers, the tokenizer, preprocessing and gradients."""

import errno
import io
import json
import math
import warnings
from collections import OrderedDict
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from styleclip_ops.checkpoints import load_clip
from styleclip_ops.clip import ClipModel, area_resize, clip_tokenizer
from styleclip_ops.clip_checkpoints import save_clip_folder
from styleclip_ops.errors import CheckpointError, ConfigError, ShapeError, UnsafeCheckpointError

from published import torch_file

WIDTH, PATCH, GRID, EMBED, LAYERS = 64, 8, 4, 24, 2


class Block(nn.Module):
    """A residual attention block as the CLIP paper describes it, with the release's names."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, WIDTH // 64)
        self.ln_1 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(WIDTH, 4 * WIDTH), c_proj=nn.Linear(4 * WIDTH, WIDTH))
        )
        self.ln_2 = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        hidden = self.mlp.c_fc(self.ln_2(x))
        return x + self.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(Block() for _ in range(LAYERS)))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x.transpose(0, 1)
        for block in self.resblocks:
            x = block(x, mask)
        return x.transpose(0, 1)


class Visual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH) / 8)
        self.positional_embedding = nn.Parameter(torch.randn(GRID**2 + 1, WIDTH) / 8)
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = Tower()
        self.proj = nn.Parameter(torch.randn(WIDTH, EMBED) / 8)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = self.transformer(self.ln_pre(x + self.positional_embedding))
        return self.ln_post(x[:, 0]) @ self.proj


class OpenAiClip(nn.Module):
    """CLIP in the names and conventions of OpenAI's release, written from the paper."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = Visual()
        self.transformer = Tower()
        self.token_embedding = nn.Embedding(49408, WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(77, WIDTH) / 8)
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.randn(WIDTH, EMBED) / 8)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(100.0)))

    def encode_text(self, tokens: Tensor) -> Tensor:
        mask = torch.full((77, 77), -math.inf).triu(1)
        x = self.token_embedding(tokens) + self.positional_embedding
        x = self.ln_final(self.transformer(x, mask))
        return x[torch.arange(len(x)), tokens.argmax(dim=1)] @ self.text_projection

    def forward(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.visual(pixels), self.encode_text(tokens)


@pytest.fixture(scope="module")
def original() -> OpenAiClip:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return OpenAiClip().eval().requires_grad_(False)


def padded(texts: list[str]) -> Tensor:
    rows = [ids + [0] * (77 - len(ids)) for ids in clip_tokenizer()(texts)["input_ids"]]
    return torch.tensor(rows)


TEXTS = ["a smiling face", "a photo of an old man with a beard, 1900.", ""]


@pytest.fixture(scope="module")
def archive(original: OpenAiClip) -> bytes:
    """A real TorchScript archive, with the size attributes that OpenAI's has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; the published file is not
        traced = torch.jit.trace(original, (torch.zeros(1, 3, 32, 32), padded(["x"])))
        file = io.BytesIO()
        torch.jit.save(traced, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def clip(archive: bytes) -> ClipModel:
    return load_clip(io.BytesIO(archive))


def unit(x: Tensor) -> Tensor:
    return nn.functional.normalize(x, dim=1)


def test_openai_archive_gives_the_same_embeddings(clip: ClipModel, original: OpenAiClip) -> None:
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    want = unit(original.visual(((images + 1) / 2 - mean) / std))
    torch.testing.assert_close(clip.embed_images(images), want, atol=1e-5, rtol=0)
    want = unit(original.encode_text(padded(TEXTS)))
    torch.testing.assert_close(clip.embed_texts(TEXTS), want, atol=1e-5, rtol=0)
    assert (clip.embedding_dim, clip.image_size, clip.context_length) == (EMBED, 32, 77)
    assert clip.logit_scale.item() == pytest.approx(100, rel=1e-4)


def test_openai_state_dict(clip: ClipModel, original: OpenAiClip) -> None:
    sizes = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(77)}
    half = {name: tensor.half() for name, tensor in original.state_dict().items()}
    again = load_clip(torch_file(half | sizes))
    got, want = again.embed_texts(TEXTS), clip.embed_texts(TEXTS)
    torch.testing.assert_close(got, want, atol=5e-3, rtol=0)


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_hugging_face_folder(clip: ClipModel, tmp_path: Path, weights: str) -> None:
    save_clip_folder(clip, tmp_path)
    if weights == "pytorch_model.bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(clip.model.state_dict(), tmp_path / weights)
    again = load_clip(tmp_path)
    images = torch.rand(2, 3, 48, 48) * 2 - 1
    assert torch.equal(again.embed_images(images), clip.embed_images(images))
    assert torch.equal(again.embed_texts(TEXTS), clip.embed_texts(TEXTS))


def test_a_folder_without_tokenizer_uses_clips_own(clip: ClipModel, tmp_path: Path) -> None:
    save_clip_folder(clip, tmp_path)
    for name in tmp_path.glob("*token*"):
        name.unlink()
    assert torch.equal(load_clip(tmp_path).embed_texts(TEXTS), clip.embed_texts(TEXTS))


def test_tokens_are_those_of_the_release() -> None:
    """Ids from OpenAI's own tokenizer for the same texts."""
    tokenizer = clip_tokenizer()
    assert tokenizer(["a photo of a cat"])["input_ids"] == [
        [49406, 320, 1125, 539, 320, 2368, 49407]
    ]
    assert (
        tokenizer(["A  Smiling\nface!!"])["input_ids"]
        == tokenizer(["a smiling face!!"])["input_ids"]
    )
    unicode_ids = tokenizer(["naïve 日本 العربية"])["input_ids"][0]
    assert unicode_ids == [
        49406, 1097, 35689, 563, 39121, 19277, 361, 12973, 18843, 10948, 16378, 12046, 20915, 49407,
    ]  # fmt: skip
    assert len(tokenizer) == 49408


def test_preprocessing_is_that_of_a_saved_picture(clip: ClipModel) -> None:
    """The tensor path against Pillow's bicubic filter, which the release uses."""
    from styleclip_ops.clip import _clip_input

    levels = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    image = Image.fromarray(levels)
    images = torch.from_numpy(levels).permute(2, 0, 1)[None].float() / 127.5 - 1
    resized = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC), np.float32) / 255
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    want = torch.from_numpy((resized - np.float32(mean)) / np.float32(std)).permute(2, 0, 1)[None]
    # Pillow rounds to 8 bits between the two passes and after them.
    torch.testing.assert_close(_clip_input(images, 32), want, atol=1.6 / 255 / min(std), rtol=0)


def test_values_outside_the_range_count_as_saved(clip: ClipModel) -> None:
    images = torch.randn(2, 3, 40, 40)
    assert torch.equal(clip.embed_images(images * 3), clip.embed_images((images * 3).clamp(-1, 1)))


def test_the_published_loss_sees_the_raw_image(archive: bytes, original: OpenAiClip) -> None:
    raw = load_clip(io.BytesIO(archive), preprocessing="styleclip_loss")
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    want = unit(original.visual(nn.functional.avg_pool2d(images, 2)))
    torch.testing.assert_close(raw.embed_images(images), want, atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="preprocessing: got 'none'"):
        load_clip(io.BytesIO(archive), preprocessing="none")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [32, 64, 96, 128, 256])
def test_area_resize_equals_repeat_and_average(size: int) -> None:
    images = torch.randn(1, 3, size, size)
    repeated = images.repeat_interleave(7, dim=2).repeat_interleave(7, dim=3)
    want = nn.functional.avg_pool2d(repeated, size // 32)
    torch.testing.assert_close(area_resize(images, 224), want, atol=1e-5, rtol=0)


def test_images_are_differentiable(clip: ClipModel) -> None:
    images = (torch.rand(1, 3, 40, 40) - 0.5).requires_grad_()
    clip.embed_images(images)[0, 0].backward()
    assert images.grad is not None
    assert (images.grad != 0).float().mean() > 0.9


def test_a_batch_equals_a_loop(clip: ClipModel) -> None:
    images = torch.rand(3, 3, 40, 40) * 2 - 1
    loop = torch.cat([clip.embed_images(image[None]) for image in images])
    torch.testing.assert_close(clip.embed_images(images), loop, atol=1e-6, rtol=0)
    loop = torch.cat([clip.embed_texts([text]) for text in TEXTS])
    torch.testing.assert_close(clip.embed_texts(TEXTS), loop, atol=1e-5, rtol=0)


def test_bad_input(clip: ClipModel) -> None:
    with pytest.raises(ShapeError, match=r"images: .*images\[None\]"):
        clip.embed_images(torch.zeros(3, 32, 32))
    with pytest.raises(ShapeError, match="images"):
        clip.embed_images(torch.zeros(1, 3, 32, 40))
    with pytest.raises(ConfigError, match=r"got 1002 tokens, expected at most 77"):
        clip.embed_texts(["face " * 1000])
    for texts in ([], "a cat", [None]):
        with pytest.raises(ConfigError, match="expected a list of at least one prompt"):
            clip.embed_texts(texts)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="torch.uint8, expected floats"):
        clip.embed_images(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_damaged_checkpoints(original: OpenAiClip, archive: bytes, tmp_path: Path) -> None:
    block = "visual.transformer.resblocks.1."
    for name in (f"{block}attn.in_proj_bias", "visual.class_embedding", "logit_scale"):
        state = original.state_dict()
        del state[name]
        with pytest.raises(CheckpointError, match=f"missing tensor {name}: expected"):
            load_clip(torch_file(state))
    for name, damaged in (
        ("visual.positional_embedding", torch.zeros(1, WIDTH)),
        ("visual.positional_embedding", torch.zeros(0, WIDTH)),
        ("positional_embedding", torch.zeros(1, WIDTH)),
        ("token_embedding.weight", torch.zeros(1, WIDTH)),
        ("visual.conv1.weight", torch.zeros(1, 3, PATCH, PATCH)),
        ("visual.proj", torch.zeros(1, 2, 3)),
        (f"{block}attn.in_proj_weight", torch.zeros(1)),
        (f"{block}attn.in_proj_weight", torch.tensor(1.0)),
    ):
        with pytest.raises(CheckpointError, match=name):
            load_clip(torch_file(original.state_dict() | {name: damaged}))
    with pytest.raises(CheckpointError, match="extra tensor surprise"):
        load_clip(torch_file(original.state_dict() | {"surprise": torch.zeros(1)}))
    with pytest.raises(
        CheckpointError, match="missing tensor visual.conv1.weight: got tensors weight"
    ):
        load_clip(torch_file({"weight": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="truncated"):
        load_clip(io.BytesIO(archive[: len(archive) // 2]))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_clip(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"text_config": 5},
        {"vision_config": {"patch_size": 0}},
        {"vision_config": {"hidden_act": "zzz"}},
        {"text_config": {"num_attention_heads": 3, "hidden_size": 64}},
    ],
)
def test_a_damaged_folder_is_a_checkpoint_error(
    clip: ClipModel, tmp_path: Path, change: dict[str, object]
) -> None:
    save_clip_folder(clip, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_clip(tmp_path)


@pytest.mark.parametrize("fault", [OSError(errno.EIO, "disk"), MemoryError()])
@pytest.mark.parametrize(
    "where", ["pathlib.Path.read_text", "styleclip_ops.clip_checkpoints.CLIPTokenizer"]
)
def test_faults_of_the_machine_are_not_the_folders(
    clip: ClipModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
    where: str,
) -> None:
    save_clip_folder(clip, tmp_path)
    reader = Mock(side_effect=fault)
    reader.from_pretrained = reader
    monkeypatch.setattr(where, reader)
    with pytest.raises(type(fault)) as raised:
        load_clip(tmp_path)
    assert raised.value is fault


def test_saving_says_nothing(
    clip: ClipModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_clip_folder(clip, tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_script_archive_runs_no_code(archive: bytes) -> None:
    import zipfile

    altered = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(altered, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("/data.pkl"):
                data = b"cposix\nsystem\n(S'exit'\ntR."
            target.writestr(name, data)
    altered.seek(0)
    with pytest.raises(UnsafeCheckpointError, match=r"posix\.system"):
        load_clip(altered)
