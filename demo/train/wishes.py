"""What edits are asked for, and how probes tell whether they got it and what else they changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from demo.portraits.attributes import GENDERED, LEANINGS, RATES

# A probe counts as sure from this probability on.
SURE = 0.7


class AttributeTeller(Protocol):
    """Tell attributes: images [N, 3, R, R] in [-1, 1] -> probabilities [N, options] of each."""

    def probabilities(self, images: Tensor) -> Mapping[str, Tensor]:
        """Judge images."""


@dataclass(frozen=True)
class Sight:
    """Hold what a probe sees in N pictures.

    Attributes:
        options: attribute -> [N] index of the likeliest option.
        sure: attribute -> bool [N], whether the probe is.
    """

    options: Mapping[str, Tensor]
    sure: Mapping[str, Tensor]

    def shows(self, attribute: str, option: str) -> Tensor:
        """Return which pictures show an option, bool [N]."""
        return self.options[attribute] == [*RATES[attribute]].index(option)

    def take(self, rows: Tensor) -> "Sight":
        """Return what is seen in the pictures `rows`."""
        return Sight(
            {name: options[rows] for name, options in self.options.items()},
            {name: sure[rows] for name, sure in self.sure.items()},
        )


@torch.no_grad()
def look(probe: AttributeTeller, pictures: Tensor, batch: int = 64) -> Sight:
    """Show pictures [N, 3, size, size] to a probe, some at a time."""
    parts = [probe.probabilities(part) for part in torch.split(pictures, batch)]
    told = {name: torch.cat([part[name] for part in parts]).max(dim=1) for name in parts[0]}
    return Sight(
        {name: best.indices for name, best in told.items()},
        {name: best.values >= SURE for name, best in told.items()},
    )


@dataclass(frozen=True)
class Wish:
    """Name an edit.

    Attributes:
        prompt: The target prompt.
        attribute: What shall change.
        options: Those of its options that fulfil the prompt.
    """

    prompt: str
    attribute: str
    options: tuple[str, ...]

    def __post_init__(self) -> None:
        missing = {*self.options} - {*RATES.get(self.attribute, ())}
        if missing or not self.options:
            raise ValueError(f"{self.attribute}: got {self.options}, expected options of RATES")

    def granted(self, sight: Sight) -> Tensor:
        """Return which pictures show what is wished, bool [N]."""
        shown = [sight.shows(self.attribute, option) for option in self.options]
        return torch.stack(shown).any(dim=0)

    def possible(self, sight: Sight) -> Tensor:
        """Return which pictures do not show it yet and belong to people who can, bool [N].

        In the portraits only men have beards, and bald heads show no hair colour.
        """
        able = ~self.granted(sight)
        if self.attribute in GENDERED:
            able &= sight.shows("gender", GENDERED[self.attribute])
        if self.attribute == "hair_color":
            able &= ~sight.shows("hair_style", "bald")
        return able

    def others(self) -> tuple[str, ...]:
        """Return the attributes that should stay.

        One that leans on the attribute wished for in the data (moustaches go with beards, grey hair
        with age) may follow it.
        """
        following = {name for name, (other, _) in LEANINGS.items() if other == self.attribute}
        return tuple(name for name in RATES if name not in {self.attribute, *following})

    def side_effects(self, before: Sight, after: Sight) -> Tensor:
        """Return the share of the other attributes that changed, [N].

        Those count of which the probe was sure before and which nothing hides: a bald head shows no
        hair colour, and a hat hides whether a head is bald.
        """
        bald = before.shows("hair_style", "bald") | after.shows("hair_style", "bald")
        hatted = ~before.shows("hat", "none") | ~after.shows("hat", "none")
        hidden = {"hair_color": bald, "hair_style": bald & hatted}
        changed = torch.zeros(len(bald), device=bald.device)
        counted = torch.zeros_like(changed)
        for name in self.others():
            counts = before.sure[name] & ~hidden.get(name, torch.zeros_like(bald))
            changed += counts & (before.options[name] != after.options[name])
            counted += counts
        return changed / counted.clamp_min(1)


WISHES = (
    Wish("a smiling face", "expression", ("smiling",)),
    Wish("a face with glasses", "glasses", ("glasses",)),
    Wish("a face with sunglasses", "glasses", ("sunglasses",)),
    Wish("a face with a beard", "beard", ("full",)),
    Wish("a face with red hair", "hair_color", ("red",)),
    Wish("a face with blond hair", "hair_color", ("blond",)),
    Wish("an old face", "age", ("old",)),
    Wish("a face with a hat", "hat", ("beanie", "brimmed")),
    Wish("a bald head", "hair_style", ("bald",)),
)
