"""Finished weights: the file that `demo/models` holds, and its card."""

import copy
from collections.abc import Mapping
from pathlib import Path

from demo.train.cards import write_card
from demo.train.curve import read_rows
from demo.train.files import replacing
from demo.train.shards import PortraitShards
from styleclip_ops.checkpoints import save_safetensors
from styleclip_ops.generator import Generator

_TEXT = """A StyleGAN2 generator (mapping network, modulated synthesis) of cartoon portraits.
The synthesis network learned to draw the portraits of `demo/portraits` from their parameters
through w; where figures of a stage `finish` are given it was then sharpened adversarially. Where
figures of a stage `colours` are given, its toRGB styles were made constants, so that global edits,
which leave those alone, reach all that it draws (`demo/train/colours.py`). The
mapping network was not learned but written down (`demo/train/mapping.py`): the first coordinates of
z, at unit mean square, are the portrait's normal vector, the others are free. W and S were brought
to scales that the published edits' distance terms and step sizes suit (`demo/train/scaling.py`).
Noise is not used (strength 0).
Made by `python -m demo.train`; weights are stored in half precision."""


def export_generator(
    generator: Generator,
    models: Path,
    runs: Path,
    shards: PortraitShards,
    figures: Mapping[str, float],
) -> Path:
    """Write `generator.safetensors` and its card.

    Args:
        generator: The generator with its mapping network.
        models: Folder to write to.
        runs: Folder with the curves of the stages.
        shards: What it learned from.
        figures: Of the mapping network.

    Returns:
        The file of weights.
    """
    path = models / "generator.safetensors"
    with replacing(path) as part:
        save_safetensors(copy.deepcopy(generator).cpu().half(), part)
    facts: dict[str, object] = {
        "pictures": f"{len(shards)} renders of {shards.size} px, series {shards.card}",
        "channels": list(generator.config.channels),
        "parameters": sum(p.numel() for p in generator.parameters()),
        "file": f"{path.stat().st_size / 1e6:.1f} MB",
    }
    for stage in ("synthesis", "finish", "colours"):
        rows = read_rows(runs / stage / "curve.jsonl")
        for name, value in (rows[-1] if rows else {}).items():
            facts[f"{stage}: {name}"] = f"{value:.6g}"
    facts |= {f"mapping: {name}": f"{value:.6g}" for name, value in figures.items()}
    write_card(path.with_suffix(".md"), "Demo generator", _TEXT, facts)
    return path
