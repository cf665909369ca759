"""Zero-shot classification of attributes with prompts (Radford et al., ICML 2021, section 3.1)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from demo.portraits.attributes import GENDERED, RATES
from demo.portraits.captions import class_prompts
from demo.portraits.sampling import PARAMETER_SLICES
from demo.train.balance import balanced_accuracy
from demo.train.statements import option_column
from styleclip_ops.clip import ClipModel, TextEmbedder

# attribute -> options that are also judged alone
TOLD_APART: Mapping[str, tuple[str, ...]] = {"expression": ("smiling",), "beard": ("full",)}


@dataclass(frozen=True)
class Accuracy:
    """Share of pictures classified rightly (`plain`), and its mean over options (`balanced`)."""

    plain: float
    balanced: float


@torch.no_grad()
def embed_pictures(clip: ClipModel, pictures: Tensor, batch: int = 64) -> Tensor:
    """Embed pictures [N, 3, R, R] in [-1, 1] in batches, as unit vectors [N, E]."""
    return torch.cat([clip.embed_images(part) for part in torch.split(pictures, batch)])


@torch.no_grad()
def zero_shot(
    clip: TextEmbedder, embeddings: Tensor, parameters: Tensor, held_out: bool = True
) -> dict[str, Accuracy]:
    """Classify pictures by the nearest option, for each attribute.

    Args:
        clip: Embeds the prompts; the embedding of an option is the mean over its prompts.
        embeddings: [N, E] of the pictures.
        parameters: [N, P] of the portraits on them.
        held_out: Use prompts in phrasings that no caption to learn from has.

    Returns:
        Accuracy per attribute, over the pictures that can show it and the options among them;
        and per option of TOLD_APART, where only that option and the rest are told apart.
    """
    accuracies = {}
    for attribute in RATES:
        shown = shows(attribute, parameters)
        truth = parameters[shown, PARAMETER_SLICES[attribute]].argmax(dim=1)
        options = option_embeddings(clip, attribute, held_out).to(embeddings)
        predicted = (embeddings[shown] @ options.T).argmax(dim=1)
        accuracies[attribute] = _accuracy(predicted, truth)
        for option in TOLD_APART.get(attribute, ()):
            index = [*RATES[attribute]].index(option)
            told = _accuracy((predicted == index).long(), (truth == index).long())
            accuracies[f"{attribute}: {option}"] = told
    return accuracies


def option_embeddings(clip: TextEmbedder, attribute: str, held_out: bool) -> Tensor:
    """Embed the options of an attribute, in their order, as unit vectors [K, E]."""
    prompts: Mapping[str, list[str]] = class_prompts(attribute, held_out)
    means = [clip.embed_texts(prompts[option]).mean(dim=0) for option in RATES[attribute]]
    return F.normalize(torch.stack(means), dim=1)


def shows(attribute: str, parameters: Tensor) -> Tensor:
    """Return whether pictures [N, P] can show an attribute, [N] bool."""
    if attribute in GENDERED:
        return parameters[:, option_column("gender", GENDERED[attribute])] == 1
    if attribute == "hair_color":
        return parameters[:, option_column("hair_style", "bald")] == 0
    return parameters.new_ones(len(parameters), dtype=torch.bool)


def _accuracy(predicted: Tensor, truth: Tensor) -> Accuracy:
    plain = float((predicted == truth).float().mean())
    return Accuracy(plain, balanced_accuracy(predicted, truth))
