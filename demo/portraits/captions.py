"""Captions of portraits in varied natural phrasing, and class prompts for zero-shot tests."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from demo.portraits.attributes import GENDERED, RATES, Portrait
from demo.portraits.phrases import (
    ADJECTIVES,
    DETAILS,
    HELD_OUT_ADJECTIVES,
    HELD_OUT_DETAILS,
    HELD_OUT_NOUNS,
    NOUNS,
    OPENINGS,
    Fact,
    Phrases,
)

# Shares of captions that state one, two, three and four facts.
_COUNT_RATES = (0.48, 0.27, 0.16, 0.09)
# What is absent is said this much more seldom than what is there.
_ABSENCE_WEIGHT = 0.3
_BARE_RATE = 0.15


@dataclass(frozen=True)
class _Words:
    nouns: Mapping[str, Phrases]
    adjectives: Mapping[Fact, Phrases]
    details: Mapping[Fact, Phrases]


_TRAINING = _Words(NOUNS, ADJECTIVES, DETAILS)
_HELD_OUT = _Words(HELD_OUT_NOUNS, HELD_OUT_ADJECTIVES, HELD_OUT_DETAILS)


def caption(portrait: Portrait, rng: Random) -> str:
    """Describe one to four true facts about `portrait`, nearly half of the time only one."""
    count = rng.choices((1, 2, 3, 4), _COUNT_RATES)[0]
    chosen = _choose(facts(portrait), count, rng)
    noun = "any"
    adjectives: list[str] = []
    details: list[str] = []
    for fact in chosen:
        before, after = ADJECTIVES.get(fact, ()), DETAILS.get(fact, ())
        if fact[0] == "gender":
            noun = fact[1]
        elif before and len(adjectives) < 2 and (not after or rng.random() < 0.5):
            adjectives.append(rng.choice(before))
        elif after:
            details.append(rng.choice(after))
    if len(chosen) == 1 and details and rng.random() < _BARE_RATE:
        return details[0].removeprefix("with ")
    who = _with_article(" ".join([*adjectives, _noun(rng.choice(NOUNS[noun]), details)]))
    return rng.choice(OPENINGS) + " ".join([who, *_joined(details)])


def class_prompts(attribute: str, held_out: bool = False) -> dict[str, list[str]]:
    """Return prompts that each name one option of `attribute`, for zero-shot classification.

    Raises:
        ValueError: if `attribute` is unknown.
    """
    if attribute not in RATES:
        raise ValueError(f"attribute: got {attribute!r}, expected one of {[*RATES]}")
    words = _HELD_OUT if held_out else _TRAINING
    if attribute == "gender":
        return {g: [_with_article(noun) for noun in words.nouns[g]] for g in RATES["gender"]}
    return {option: _fact_prompts((attribute, option), words) for option in RATES[attribute]}


def facts(portrait: Portrait) -> list[Fact]:
    """Return what can be seen and said of `portrait`."""
    names = [name for name in RATES if GENDERED.get(name, portrait.gender) == portrait.gender]
    true = [(name, getattr(portrait, name)) for name in names]
    if portrait.expression != "smiling":
        true.append(("expression", "not smiling"))
    if portrait.hair_style == "bald":
        true.remove(("hair_color", portrait.hair_color))
        if portrait.hat != "none":
            true.remove(("hair_style", "bald"))
    return true


def _choose(true: list[Fact], count: int, rng: Random) -> list[Fact]:
    """Draw `count` facts about different attributes, absences seldom."""
    rest = list(true)
    chosen: list[Fact] = []
    while rest and len(chosen) < count:
        weights = [_ABSENCE_WEIGHT if _is_absence(fact) else 1.0 for fact in rest]
        fact = rng.choices(rest, weights)[0]
        chosen.append(fact)
        rest = [other for other in rest if other[0] != fact[0]]
    return chosen


def _is_absence(fact: Fact) -> bool:
    return fact[1] == "none" or fact[1].startswith("not ")


def _joined(details: list[str]) -> list[str]:
    if len(details) < 2:
        return details
    return [", ".join(details[:-1]) + " and " + details[-1]]


def _with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _fact_prompts(fact: Fact, words: _Words) -> list[str]:
    before = [_with_article(f"{a} face") for a in words.adjectives.get(fact, ())]
    after = words.details.get(fact, ())
    return before + [f"a {_noun('face', [detail])} {detail}" for detail in after]


def _noun(noun: str, details: list[str]) -> str:
    """Return `noun`, or "person" where a detail needs somebody who does something."""
    active = any(d.startswith("who") for d in details)
    return "person" if active and noun.endswith("face") else noun
