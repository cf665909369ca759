"""What captions state of portraits, so that a caption can be told true or false of any picture."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from demo.portraits.attributes import RATES
from demo.portraits.captions import caption
from demo.portraits.phrases import ADJECTIVES, DETAILS, NOUNS, Fact
from demo.portraits.sampling import PARAMETER_SLICES, sample_portraits
from styleclip_ops.clip import clip_tokenizer
from styleclip_ops.prompt_templates import IMAGENET_TEMPLATES

# The first columns of a parameter vector are the options of the attributes.
NUM_OPTIONS = sum(len(rates) for rates in RATES.values())

NEUTRAL_CAPTIONS = (
    "a face",
    "a person",
    "a portrait",
    "a human face",
    "a face of a person",
    "a photo of a face",
    "a photo of a person",
    "a picture of a face",
    "a picture of a person",
    "a portrait of a face",
    "a portrait of a person",
)

_NEUTRAL_RATE, _TEMPLATE_RATE, _FILLER_RATE = 0.08, 0.3, 0.3


@dataclass(frozen=True)
class Captions:
    """Hold captions with what they deny.

    Attributes:
        texts: C captions.
        denied: [C, NUM_OPTIONS] float32, 1 where a picture with that option makes it false.
    """

    texts: Sequence[str]
    denied: Tensor

    def __len__(self) -> int:
        return len(self.texts)

    def pick(self, rows: Tensor) -> "Captions":
        """Return the captions `rows` [B]."""
        return Captions([self.texts[row] for row in rows.tolist()], self.denied[rows])

    def truth(self, parameters: Tensor) -> Tensor:
        """Return of which pictures each caption is true.

        Args:
            parameters: [N, P] parameter vectors.

        Returns:
            [N, C] float32, 1 for true.
        """
        options = parameters[:, :NUM_OPTIONS]
        return (options @ self.denied.to(options).T == 0).float()


def sample_captions(num: int, seed: int) -> Captions:
    """Write captions of portraits that are not rendered, neutral ones among them.

    Some stand in CLIP's sentence templates, as prompts do when a text direction is computed, and
    some have a word without meaning put in, so that words never learned do not disturb.
    """
    rng, fillers = Random(seed), _filler_words()  # noqa: S311 - no secret
    texts, denied = [], []
    for portrait in sample_portraits(num, seed):
        neutral = rng.random() < _NEUTRAL_RATE
        plain = rng.choice(NEUTRAL_CAPTIONS) if neutral else caption(portrait, rng)
        denied.append(denied_options(plain))
        texts.append(_vary(plain, rng, fillers))
    return Captions(texts, torch.stack(denied))


def denied_options(text: str) -> Tensor:
    """Return what `text`, in the phrases of captions to learn from, says is not so.

    Returns:
        [NUM_OPTIONS] float32, 1 for an option that makes it false.
    """
    denied = torch.zeros(NUM_OPTIONS)
    for phrase in _PATTERN.findall(text):
        attribute, allowed = _MEANINGS[phrase]
        denied[PARAMETER_SLICES[attribute]] = torch.tensor(
            [float(option not in allowed) for option in RATES[attribute]]
        )
        if attribute == "hair_color":
            denied[option_column("hair_style", "bald")] = 1
    return denied


def option_column(attribute: str, option: str) -> int:
    """Return the column of an option in parameter vectors."""
    return int(PARAMETER_SLICES[attribute].start) + [*RATES[attribute]].index(option)


def _meanings() -> Mapping[str, tuple[str, frozenset[str]]]:
    """Map each phrase to its attribute and the options that it is true of."""
    facts: dict[str, set[Fact]] = {}
    genders = {("gender", gender): NOUNS[gender] for gender in RATES["gender"]}
    for words in (genders, ADJECTIVES, DETAILS):
        for fact, phrases in words.items():
            for phrase in (*phrases, *(p.removeprefix("with ") for p in phrases)):
                facts.setdefault(phrase, set()).add(fact)
    return {phrase: _options(meant) for phrase, meant in facts.items()}


def _options(facts: Iterable[Fact]) -> tuple[str, frozenset[str]]:
    """Join facts about one attribute that the same phrase states."""
    allowed: set[str] = set()
    for attribute, said in facts:
        denied = said.removeprefix("not ")
        allowed |= {said} if denied == said else {*RATES[attribute]} - {denied}
    return attribute, frozenset(allowed)


_MEANINGS = _meanings()
# Where two phrases begin at the same place, the longer one is meant.
_PATTERN = re.compile(
    rf"\b(?:{'|'.join(re.escape(p) for p in sorted(_MEANINGS, key=len, reverse=True))})\b"
)


def _filler_words() -> list[str]:
    """Return the whole words of CLIP's vocabulary that no caption uses."""
    used = set(re.findall(r"\w+", " ".join([*_MEANINGS, *NEUTRAL_CAPTIONS])))
    words = (
        token.removesuffix("</w>") for token in clip_tokenizer().get_vocab() if "</w>" in token
    )
    return sorted(w for w in words if w.isascii() and w.isalpha() and w not in used)


def _vary(text: str, rng: Random, fillers: Sequence[str]) -> str:
    if rng.random() < _FILLER_RATE:
        words = text.split()
        words.insert(rng.randrange(len(words)), rng.choice(fillers))
        text = " ".join(words)
    if rng.random() < _TEMPLATE_RATE:
        text = rng.choice(IMAGENET_TEMPLATES).replace("{}", text)
    return text
