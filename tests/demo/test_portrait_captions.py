"""Captions say what is true, in two separate sets of phrasings."""

import re
from random import Random

import pytest

from demo.portraits.attributes import RATES
from demo.portraits.captions import caption, class_prompts, facts
from demo.portraits.phrases import ADJECTIVES, DETAILS, HELD_OUT_ADJECTIVES, HELD_OUT_DETAILS
from demo.portraits.sampling import sample_portraits


def meanings(*tables):
    """Return every phrase of some tables with the facts it may stand for."""
    found = {}
    for table in tables:
        for fact, phrases in table.items():
            for phrase in phrases:
                found.setdefault(phrase, set()).add(fact)
    return found


def said(text, phrases):
    """Return the phrases in `text`, the longest first, none of them inside another."""
    spoken = []
    for phrase in sorted(phrases, key=len, reverse=True):
        pattern = rf"(?<![\w-]){re.escape(phrase)}(?![\w-])"
        if re.search(pattern, text):
            spoken.append(phrase)
            text = re.sub(pattern, "#", text)
    return spoken


def test_captions_never_contradict_the_portrait():
    rng, phrases, stated = Random(0), meanings(ADJECTIVES, DETAILS), 0
    for portrait in sample_portraits(1500, seed=6):
        text = caption(portrait, rng)
        true = set(facts(portrait))
        for phrase in said(text, phrases):
            assert phrases[phrase] & true, (text, phrase)
            stated += 1
        other = "man" if portrait.gender == "woman" else "woman"
        assert not re.search(rf"\b{other}\b", text)
    assert stated > 1500


def test_held_out_phrases_are_never_in_training():
    rng = Random(1)
    phrases = meanings(HELD_OUT_ADJECTIVES, HELD_OUT_DETAILS)
    for portrait in sample_portraits(1500, seed=7):
        assert not said(caption(portrait, rng), phrases)


def test_captions_are_deterministic_and_varied():
    portraits = sample_portraits(300, seed=8)
    texts = [caption(p, Random(i)) for i, p in enumerate(portraits)]
    assert texts == [caption(p, Random(i)) for i, p in enumerate(portraits)]
    assert len(set(texts)) > 200


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("attribute", [*RATES])
def test_every_option_has_class_prompts(attribute, held_out):
    prompts = class_prompts(attribute, held_out)
    assert [*prompts] == [*RATES[attribute]]
    assert all(prompts.values())


def test_unknown_attribute_is_refused():
    with pytest.raises(ValueError, match="attribute: got 'tail'"):
        class_prompts("tail")
