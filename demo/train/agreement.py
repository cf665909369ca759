"""Whether CLIP's image space moves where its text space says, which global directions rest on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from demo.portraits.attributes import Portrait
from demo.portraits.render import render_portraits
from demo.portraits.sampling import sample_portraits
from demo.train.zero_shot import embed_pictures
from styleclip_ops.clip import ClipModel
from styleclip_ops.direction import text_direction

NEUTRAL_PROMPT = "a face"


@dataclass(frozen=True)
class Edit:
    """Name a change of a portrait.

    Attributes:
        before, after: Attributes that it begins and ends with.
    """

    before: Mapping[str, str]
    after: Mapping[str, str]


_MAN = {"gender": "man", "lipstick": "none"}
_WOMAN = {"gender": "woman", "beard": "none", "moustache": "none"}
_HAIRY = {"hair_style": "short"}

# target prompt -> the edit that it asks for
EDITS: Mapping[str, Edit] = {
    "a smiling face": Edit({"expression": "neutral"}, {"expression": "smiling"}),
    "a surprised face": Edit({"expression": "neutral"}, {"expression": "surprised"}),
    "an angry face": Edit({"expression": "neutral"}, {"expression": "angry"}),
    "a face with glasses": Edit({"glasses": "none"}, {"glasses": "glasses"}),
    "a face with sunglasses": Edit({"glasses": "none"}, {"glasses": "sunglasses"}),
    "a face with a beard": Edit(_MAN | {"beard": "none"}, {"beard": "full"}),
    "a face with a moustache": Edit(_MAN | {"moustache": "none"}, {"moustache": "moustache"}),
    "a face with a hat": Edit({"hat": "none"}, {"hat": "brimmed"}),
    "a face with red hair": Edit(_HAIRY | {"hair_color": "brown"}, {"hair_color": "red"}),
    "a face with blond hair": Edit(_HAIRY | {"hair_color": "brown"}, {"hair_color": "blond"}),
    "a face with grey hair": Edit(_HAIRY | {"hair_color": "brown"}, {"hair_color": "grey"}),
    "a face with long hair": Edit({"hair_style": "short"}, {"hair_style": "long"}),
    "a bald face": Edit({"hair_style": "short"}, {"hair_style": "bald"}),
    "an old face": Edit({"age": "young"}, {"age": "old"}),
    "a face with lipstick": Edit(_WOMAN | {"lipstick": "none"}, {"lipstick": "lipstick"}),
}


@dataclass(frozen=True)
class EditPairs:
    """Hold renders of portraits before and after each edit of EDITS.

    Attributes:
        before, after: [len(EDITS), n, 3, size, size] in [-1, 1].
    """

    before: Tensor
    after: Tensor


@dataclass(frozen=True)
class Agreement:
    """Compare how image embeddings move with text directions.

    Attributes:
        cosine: Mean cosine with the direction of the edit's own prompt.
        chosen: Share of pairs whose movement is nearest to it among the prompts of EDITS.
    """

    cosine: float
    chosen: float


def render_edit_pairs(num: int, seed: int, size: int, device: torch.device) -> EditPairs:
    """Render `num` pairs for each edit; the pairs differ in nothing else."""
    portraits = sample_portraits(num, seed)
    before = [_changed(portraits, edit.before) for edit in EDITS.values()]
    after = [_changed(b, edit.after) for b, edit in zip(before, EDITS.values(), strict=True)]
    pictures = [[render_portraits(p, size, device) for p in part] for part in (before, after)]
    return EditPairs(*(torch.stack(part).clamp(-1, 1) for part in pictures))


@torch.no_grad()
def measure_agreement(clip: ClipModel, pairs: EditPairs) -> dict[str, Agreement]:
    """Compare movements of image embeddings with text directions from NEUTRAL_PROMPT.

    Returns:
        The agreement for each target prompt of EDITS.
    """
    embeddings = [embed_pictures(clip, p.flatten(0, 1)) for p in (pairs.after, pairs.before)]
    moved = F.normalize(embeddings[0] - embeddings[1], dim=1)
    directions = torch.stack([text_direction(clip, NEUTRAL_PROMPT, target) for target in EDITS])
    cosines = (moved @ directions.T).view(len(EDITS), -1, len(EDITS))  # [edits, n, prompts]
    own = cosines.diagonal(dim1=0, dim2=2).T  # [edits, n]
    chosen = (own == cosines.amax(dim=2)).float()
    return {
        target: Agreement(float(own[i].mean()), float(chosen[i].mean()))
        for i, target in enumerate(EDITS)
    }


def _changed(portraits: Sequence[Portrait], attributes: Mapping[str, Any]) -> list[Portrait]:
    return [replace(portrait, **attributes) for portrait in portraits]
