"""The judgement of the demo models: tables for the terminal and the cards, sheets and strips."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from demo.portraits.sheet import contact_sheet
from demo.train.cards import write_card
from demo.train.clock import Deadline
from demo.train.crops import photographed_crops
from demo.train.editing import EditConfig, EditModels, measure_directions
from demo.train.files import replacing
from demo.train.generation import compare_generation, look_at, sample_pictures
from demo.train.overview import write_overview
from demo.train.probes import Probe, load_probe
from demo.train.progress import Report
from demo.train.reconstruction import (
    describe_reconstruction,
    draw_latents,
    invert,
    measure_reconstruction,
)
from demo.train.shards import PortraitShards, to_pictures
from demo.train.tables import set_section
from demo.train.trials import describe_trials, methods, try_methods
from demo.train.wishes import WISHES, Wish
from styleclip_ops.checkpoints import load_arcface, load_clip, load_e4e, load_generator
from styleclip_ops.encoder import E4eEncoder

_EDITING_TEXT = """![faces, and their edits at the best strength](editing.webp)

What the three methods do with the demo models, at these settings. Made by
`python -m demo.train judge`, which leaves strips of all strengths in `judge` of its `--runs`."""

# Of the scenes that are photographed to judge the encoder.
_SCENES_SEED = 4


@dataclass(frozen=True)
class JudgeConfig:
    """How the demo models are judged.

    Attributes:
        samples: Pictures in each set of the Fréchet distances, at most as many as half the renders.
        scenes: Photographs, rendered, that are aligned with dlib and inverted.
        sources: Inversions that each prompt is tried on.
        wishes: The prompts.
        edit: How the methods are tried.
        seed: Of the samples from z.
    """

    samples: int = 2000
    scenes: int = 48
    sources: int = 32
    wishes: tuple[Wish, ...] = WISHES
    edit: EditConfig = field(default_factory=EditConfig)
    seed: int = 0


@dataclass(frozen=True)
class Judged:
    """Hold the demo models as they are on disk, on one device."""

    edit: EditModels
    encoder: E4eEncoder
    probe: Probe


def open_judged(models: Path, device: torch.device) -> Judged:
    """Load the demo models.

    Args:
        models: Folder of the finished weights.
        device: Where to judge.
    """
    probe = load_probe(models / "probes.safetensors").to(device)
    edit = EditModels(
        load_generator(models / "generator.safetensors").to(device),
        load_clip(models / "clip").to(device),
        load_arcface(models / "identity.safetensors").to(device),
        probe,
    )
    return Judged(edit, load_e4e(models / "encoder.safetensors").to(device), probe)


def judge_models(
    config: JudgeConfig,
    models: Path,
    renders: PortraitShards,
    held_out: PortraitShards,
    folder: Path,
    device: torch.device,
    deadline: Deadline,
    report: Report,
) -> None:
    """Judge the generator, the encoder and the methods; write each table as soon as it is known.

    Args:
        config: How.
        models: Folder of the finished weights and their cards.
        renders: Portraits that the models learned from.
        held_out: Others.
        folder: Receives sheets and strips.
        device: Where to judge.
        deadline: No trial of a prompt is begun after it.
        report: Told the tables.
    """
    judged = open_judged(models, device)
    pictures = to_pictures(held_out.levels(torch.arange(len(held_out)))).to(device)
    card = models / "editing.md"
    tables: dict[str, Callable[[], str]] = {
        "generator": lambda: _generation(config, judged, renders, folder, device),
        "encoder": lambda: _reconstruction(config, judged, pictures),
        "editing": lambda: _editing(config, judged, pictures, card, folder, deadline, report),
    }
    write_card(card, "Edits with the demo models", _EDITING_TEXT, asdict(config.edit))
    for name, table in tables.items():
        text = table()
        report(f"{name}\n\n{text}\n")
        set_section(models / f"{name}.md", "Figures", text)


def _generation(
    config: JudgeConfig,
    judged: Judged,
    renders: PortraitShards,
    folder: Path,
    device: torch.device,
) -> str:
    num = min(config.samples, len(renders) // 2)
    generator = judged.edit.generator
    sheet = next(sample_pictures(generator, 64, config.seed))
    with replacing(folder / "samples.png") as part:
        contact_sheet(sheet.cpu(), columns=8).save(part)
    first, second = (
        look_at(judged.probe, _in_batches(renders, start, num, device)) for start in (0, num)
    )
    samples = look_at(judged.probe, sample_pictures(generator, num, config.seed))
    return compare_generation(samples, first, second).describe()


def _reconstruction(config: JudgeConfig, judged: Judged, pictures: Tensor) -> str:
    photographs = photographed_crops(config.scenes, _SCENES_SEED, pictures.shape[-1])
    sets = {"held-out renders": pictures, "photographs": photographs.to(pictures)}
    return describe_reconstruction(
        {
            f"{name} ({len(wanted)})": measure_reconstruction(
                wanted,
                draw_latents(judged.edit.generator, invert(judged.encoder, wanted)),
                judged.probe,
                judged.edit.identity,
            )
            for name, wanted in sets.items()
        }
    )


def _editing(
    config: JudgeConfig,
    judged: Judged,
    pictures: Tensor,
    card: Path,
    folder: Path,
    deadline: Deadline,
    report: Report,
) -> str:
    models = judged.edit
    asset = measure_directions(models, config.edit)
    tried = methods(models, asset, config.edit)
    w_plus = invert(judged.encoder, pictures)
    trials = try_methods(
        models, tried, w_plus, config.wishes, config.sources, folder, deadline, report
    )
    if trials:
        write_overview(folder, card.with_suffix(".webp"))
    return describe_trials(trials)


def _in_batches(
    renders: PortraitShards, start: int, num: int, device: torch.device
) -> Iterator[Tensor]:
    for rows in torch.split(torch.arange(start, start + num), 64):
        yield to_pictures(renders.levels(rows)).to(device)
