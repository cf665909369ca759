"""The finished demo CLIP: the folder that `demo/models` holds, and its card."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch

from demo.train.agreement import NEUTRAL_PROMPT, Agreement
from demo.train.cards import write_card
from demo.train.clip_judging import ClipJudge
from demo.train.curve import read_rows
from demo.train.files import replacing
from demo.train.shards import PortraitShards
from demo.train.tables import markdown_table, set_section
from demo.train.zero_shot import Accuracy
from styleclip_ops.checkpoints import load_clip
from styleclip_ops.clip import ClipModel

_TEXT = """A CLIP of the original architecture, with the original tokenizer, at small dimensions. It
knows cartoon portraits and what their captions say of them, no photographs and no other words.
The image tower first learned to tell the attributes of rendered portraits; then both towers learned
from captions, where a caption matches every picture that it is true of. Some captions stand in the
templates of `styleclip_ops/prompt_templates.py`, and into some a word that no caption uses was put.
The pictures were moved a little, mirrored, blurred, tinted and made noisy; some were those that the
demo generator draws of the same portraits, {attacked} (`demo/train/clip.py`).
{role}Made by `python -m demo.train {name}`; weights are stored in half precision. The vocabulary is
that of the CLIP release (MIT licence)."""


@dataclass(frozen=True)
class ClipExport:
    """Name a CLIP of the demo.

    Attributes:
        name: Of its stage and folder.
        title: Of its card.
        attacked: Which pictures were changed against it, in words.
        role: What it is for, in a sentence, where that need be said.
    """

    name: str
    title: str
    attacked: str
    role: str = ""

    @property
    def text(self) -> str:
        """What the card says first."""
        return _TEXT.format(name=self.name, attacked=self.attacked, role=self.role)


CLIP = ClipExport(
    "clip",
    "Demo CLIP",
    """and some were changed against the CLIP itself, which
else leads edits to pictures that please it and show nothing""",
)
SECOND = ClipExport(
    "second-clip",
    "Second demo CLIP",
    """and some were changed, value by value, against the CLIP
itself""",
    """It steers no edit and judges all, the role `judge` of the bundle: other first weights,
batches and captions than the first one's, from the same renders.
""",
)

_ZERO_SHOT = """The prompts are those of `demo.portraits.captions.class_prompts`; the mean of an
option's prompts stands for it. No caption to learn from has the held-out phrasings. Balanced: the
mean over options. Beards and moustaches are judged among men, lipstick among women, hair colours
where there is hair.
"""

_AGREEMENT = f"""Of pairs of renders that differ in one attribute. Cosine: between the difference of
their image embeddings and the text direction from "{NEUTRAL_PROMPT}" to the prompt, over the usual
templates. Chosen: the share of pairs for which no other prompt of the table has a larger cosine.
"""


def export_clip(
    export: ClipExport,
    clip: ClipModel,
    judge: ClipJudge,
    models: Path,
    runs: Path,
    shards: PortraitShards,
) -> Path:
    """Write the folder of a CLIP, and a card with figures of what `load_clip` reads from it.

    Args:
        export: Its name and what its card says.
        clip: The model.
        judge: Gives the figures.
        models: Folder to write to.
        runs: Folder with the curve of the stage.
        shards: What it learned from.

    Returns:
        The file of weights.
    """
    folder, card = models / export.name, models / f"{export.name}.md"
    path = _write_folder(clip, folder)
    written = load_clip(folder).to(clip.model.device)
    facts = _facts(written, path, runs / export.name, shards)
    write_card(card, export.title, export.text, facts)
    phrasings = [judge.accuracies(written, held_out) for held_out in (True, False)]
    set_section(card, "Zero-shot accuracy on held-out portraits", _ZERO_SHOT + _rows(*phrasings))
    agreements = judge.agreements(written)
    set_section(card, "Agreement of pictures with text directions", _AGREEMENT + _pairs(agreements))
    return path


def _write_folder(clip: ClipModel, folder: Path) -> Path:
    """Write a Hugging Face folder without a tokenizer: the package has CLIP's own."""
    with replacing(folder / "config.json") as part:
        clip.model.config.to_json_file(str(part))
    path = folder / "model.safetensors"
    weights = copy.deepcopy(clip.model).cpu().half().state_dict()
    with replacing(path) as part:
        safetensors.torch.save_file(weights, part, metadata={"format": "pt"})
    return path


def _facts(clip: ClipModel, path: Path, run: Path, shards: PortraitShards) -> dict[str, object]:
    image, text = clip.model.config.vision_config, clip.model.config.text_config
    facts: dict[str, object] = {
        "pictures": f"{len(shards)} renders of {shards.size} px, series {shards.card}",
        "image tower": f"{image.num_hidden_layers} layers of {image.hidden_size}, patches of "
        f"{image.patch_size} px",
        "text tower": f"{text.num_hidden_layers} layers of {text.hidden_size}",
        "embedding": clip.embedding_dim,
        "parameters": sum(p.numel() for p in clip.parameters()),
        "file": f"{path.stat().st_size / 1e6:.1f} MB",
    }
    row = read_rows(run / "curve.jsonl")[-1]
    return facts | {name: f"{row[name]:.6g}" for name in ("step", "samples", "minutes")}


def _rows(held_out: Mapping[str, Accuracy], learned: Mapping[str, Accuracy]) -> str:
    header = ("attribute", "held-out phrasings", "balanced", "learned phrasings", "balanced")
    return "\n" + markdown_table(
        header,
        [
            (
                name,
                *(f"{100 * share:.1f} %" for share in (a.plain, a.balanced, b.plain, b.balanced)),
            )
            for name, a, b in ((name, held_out[name], learned[name]) for name in held_out)
        ],
    )


def _pairs(agreements: Mapping[str, Agreement]) -> str:
    return "\n" + markdown_table(
        ("prompt", "cosine", "chosen"),
        [(name, f"{a.cosine:.2f}", f"{100 * a.chosen:.0f} %") for name, a in agreements.items()],
    )
