"""CLIP (Radford et al., ICML 2021) for images in [-1, 1] and for texts, through transformers."""

import gzip
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from styleclip_ops.errors import ConfigError, check_shape

if TYPE_CHECKING:
    # It takes seconds to import, and most of what imports this loads no CLIP.
    from transformers import CLIPModel, CLIPTokenizer, PreTrainedTokenizerBase

Preprocessing = Literal["clip", "styleclip_loss"]

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_NUM_MERGES = 49152 - 256 - 2


def check_preprocessing(preprocessing: str) -> None:
    """Raise ConfigError for a preprocessing that there is not."""
    if preprocessing not in get_args(Preprocessing):
        raise ConfigError(f"preprocessing: got {preprocessing!r}, expected clip or styleclip_loss")


class ImageEmbedder(Protocol):
    """What the edit methods need of CLIP: images [N, 3, R, R] in [-1, 1] -> unit [N, E]."""

    def embed_images(self, images: Tensor) -> Tensor:
        """Embed images, differentiably."""


class TextEmbedder(Protocol):
    """What the text direction needs of CLIP: N prompts -> unit [N, E]."""

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Embed texts."""


class ClipModel(nn.Module):
    """A CLIP image tower and text tower with one embedding space.

    Args:
        model: The towers.
        tokenizer: Its tokenizer.
        preprocessing: How images reach the image tower. `clip`: clamp to [-1, 1], antialiased
            bicubic resize, CLIP's mean and standard deviation. `styleclip_loss`: what the
            published optimizer and mapper do: area resize, and the image stays in [-1, 1].
    """

    def __init__(
        self,
        model: "CLIPModel",
        tokenizer: "PreTrainedTokenizerBase",
        preprocessing: Preprocessing = "clip",
    ) -> None:
        super().__init__()
        check_preprocessing(preprocessing)
        self.model = model
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding: 512 for ViT-B/32."""
        return int(self.model.config.projection_dim)

    @property
    def image_size(self) -> int:
        """Height and width in pixels that the image tower reads."""
        return int(self.model.config.vision_config.image_size)

    @property
    def context_length(self) -> int:
        """Most tokens of a text, start and end included: 77."""
        return int(self.model.config.text_config.max_position_embeddings)

    @property
    def logit_scale(self) -> Tensor:
        """Factor on the cosine that the model was trained with, near 100 for the published ones."""
        scale: Tensor = self.model.logit_scale.exp()
        return scale

    def embed_images(self, images: Tensor) -> Tensor:
        """Embed images.

        Args:
            images: [N, 3, R, R] in [-1, 1], any size.

        Returns:
            [N, embedding_dim], unit norm, differentiable.

        Raises:
            ShapeError: The images are not a batch of square RGB images.
            ConfigError: They hold integers.
        """
        check_shape("images", images, ("N", 3, "R", "R"))
        if not images.is_floating_point():
            raise ConfigError(f"images: got {images.dtype}, expected floats in [-1, 1]")
        resize = _clip_input if self.preprocessing == "clip" else area_resize
        pixels = resize(images, self.image_size).to(self.model.dtype)
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(self.model.visual_projection(pooled), dim=-1)

    def count_tokens(self, text: str) -> int:
        """Return the tokens of a text, start and end included, however many CLIP takes."""
        return len(self.tokenizer([text])["input_ids"][0])

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Turn texts into the numbers of their tokens, start and end included.

        Raises:
            ConfigError: It is no list of texts, or one is longer than the context.
        """
        if isinstance(texts, str) or not texts or not all(isinstance(t, str) for t in texts):
            raise ConfigError(f"texts: got {texts!r}, expected a list of at least one prompt")
        tokens: list[list[int]] = self.tokenizer(texts)["input_ids"]
        for text, ids in zip(texts, tokens, strict=True):
            if len(ids) > self.context_length:
                raise ConfigError(
                    f"prompt {text[:40]!r}...: got {len(ids)} tokens, expected at most "
                    f"{self.context_length}; shorten it"
                )
        return tokens

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Embed texts.

        Args:
            texts: N prompts.

        Returns:
            [N, embedding_dim], unit norm.

        Raises:
            ConfigError: It is no list of texts, or one is longer than the context.
        """
        tokens = self.tokenize(texts)
        # The text tower is causal and reads its result at the end token: padding cannot matter.
        longest = max(map(len, tokens))
        padding = self.tokenizer.eos_token_id
        rows = [ids + [padding] * (longest - len(ids)) for ids in tokens]
        input_ids = torch.tensor(rows, device=self.model.device)
        pooled = self.model.text_model(input_ids=input_ids).pooler_output
        return F.normalize(self.model.text_projection(pooled), dim=-1)


def area_resize(images: Tensor, size: int = 224) -> Tensor:
    """Resize images to the mean of the area that each output pixel covers.

    For output size 224 this equals the published "repeat 7 times, average over R / 32 pixels".
    Downsizing by a whole number is exact pooling; otherwise pixels count by the covered share.

    Args:
        images: [N, 3, R, R].
        size: Height and width of the result.

    Returns:
        [N, 3, size, size], the values' range unchanged.
    """
    weights = _area_weights(images.shape[-1], size).to(images)
    return weights @ images @ weights.t()


@cache
def _area_weights(source: int, target: int) -> Tensor:
    """[target, source] float32: the share of each source pixel in each output pixel."""
    edges = torch.arange(target + 1, dtype=torch.float64) * source / target
    pixels = torch.arange(source, dtype=torch.float64)
    covered = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return (covered.clamp(min=0) * target / source).float()


def _clip_input(images: Tensor, size: int) -> Tensor:
    """Do to a tensor what CLIP's own preprocessing does to a picture."""
    images = images.clamp(-1, 1)
    if images.shape[-1] != size:
        images = F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True)
        images = images.clamp(-1, 1)
    mean = images.new_tensor(_MEAN)[:, None, None]
    std = images.new_tensor(_STD)[:, None, None]
    return ((images + 1) / 2 - mean) / std


@cache
def clip_tokenizer() -> "CLIPTokenizer":
    """Build CLIP's own byte-pair tokenizer from the vocabulary that comes with this package."""
    from transformers import CLIPTokenizer

    archive = resources.files("styleclip_ops") / "vocabulary" / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(archive.read_bytes()).decode("utf-8").split("\n")
    merges = [(left, right) for left, right in map(str.split, lines[1 : _NUM_MERGES + 1])]
    symbols = _byte_symbols()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    tokens += [left + right for left, right in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges)


def _byte_symbols() -> list[str]:
    """The printable character that stands for each byte, in the order of the vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = len(range(256)) - len(printable)
    return [chr(code) for code in printable] + [chr(256 + index) for index in range(others)]
