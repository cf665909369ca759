"""The training loop that all stages share: steps, checkpoints, curves and sheets."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from demo.train.clock import Deadline, describe_seconds
from demo.train.curve import append_row, draw_curve, read_rows
from demo.train.files import replacing
from demo.train.progress import Pace, Report


class Trainee(Protocol):
    """What a stage trains.

    Attributes:
        samples_per_step: Pictures or vectors that one step learns from.
    """

    samples_per_step: int

    @property
    def figures(self) -> Sequence[str]:
        """Names of the figures to draw."""

    def step(self, index: int) -> Tensor:
        """Make optimisation step `index` and return its loss, a scalar.

        What is drawn at random depends on `index` and a seed only.
        """

    def evaluate(self) -> dict[str, float]:
        """Return held-out figures of the averaged weights."""

    def draw_sheet(self) -> Image.Image:
        """Show what the averaged weights give."""

    def state(self) -> dict[str, Any]:
        """Return weights, averages and optimizer states, as tensors and plain values."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""


@dataclass(frozen=True)
class Rhythm:
    """Seconds between evaluations with a checkpoint (`save`), and between lines (`say`)."""

    save: float = 60.0
    say: float = 10.0


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps and seconds of training, all sessions together."""

    step: int = 0
    seconds: float = 0.0


def train(
    trainee: Trainee,
    folder: Path,
    steps: int,
    deadline: Deadline,
    report: Report,
    rhythm: Rhythm,
) -> Progress:
    """Train to step `steps` or the deadline, from the checkpoint in `folder` if there is one.

    `folder` receives checkpoint.pt, curve.jsonl, curve.png and sheet.png.

    Returns:
        The progress, which the last checkpoint holds.
    """
    progress = resume(trainee, folder)
    if progress.step >= steps or deadline.passed:
        return progress
    began, first, losses = time.monotonic(), progress.step, list[Tensor]()
    saving, saying = Pace(rhythm.save), Pace(rhythm.say)
    done = first
    while done < steps and not deadline.passed:
        losses.append(trainee.step(done).detach())
        done += 1
        if saying.due():
            report(_line(folder.name, trainee, done, steps, done - first, began, deadline, losses))
        if saving.due():
            now = Progress(done, progress.seconds + time.monotonic() - began)
            record(trainee, folder, now, losses, report)
            losses.clear()
    now = Progress(done, progress.seconds + time.monotonic() - began)
    record(trainee, folder, now, losses, report)
    return now


def resume(trainee: Trainee, folder: Path) -> Progress:
    """Restore the checkpoint in `folder`, if any, and return how far it is."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return Progress()
    saved = torch.load(path, map_location="cpu", weights_only=True)
    trainee.restore(saved["trainee"])
    return Progress(saved["step"], saved["seconds"])


def restart_if_moved(folder: Path, source: Mapping[str, object]) -> None:
    """Count the steps in `folder` from 0 again, weights kept, if its source is another now.

    Args:
        folder: Of a run that learns from what another run has come to.
        source: That other run and its step, as plain values; kept in source.json.
    """
    card, path = folder / "source.json", folder / "checkpoint.pt"
    if path.exists() and json.loads(card.read_text(encoding="utf-8")) != source:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        with replacing(path) as part:
            torch.save(saved | {"step": 0}, part)
    with replacing(card) as part:
        part.write_text(json.dumps(source), encoding="utf-8")


def record(
    trainee: Trainee, folder: Path, progress: Progress, losses: list[Tensor], report: Report
) -> None:
    """Write the checkpoint, then a row of the curve, its drawing and a sheet."""
    state = {"trainee": trainee.state(), "step": progress.step, "seconds": progress.seconds}
    with replacing(folder / "checkpoint.pt") as part:
        torch.save(state, part)
    row = {
        "step": float(progress.step),
        "samples": float(progress.step * trainee.samples_per_step),
        "minutes": progress.seconds / 60,
    }
    if losses:
        row["loss"] = float(torch.stack(losses).mean())
    figures = trainee.evaluate()
    append_row(folder / "curve.jsonl", row | figures)
    with replacing(folder / "curve.png") as part:
        rows = read_rows(folder / "curve.jsonl")
        draw_curve(rows, "minutes", trainee.figures).save(part)
    with replacing(folder / "sheet.png") as part:
        trainee.draw_sheet().save(part)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    report(f"{folder.name}: step {progress.step} saved, {shown}")


def _line(
    name: str,
    trainee: Trainee,
    done: int,
    steps: int,
    here: int,
    began: float,
    deadline: Deadline,
    losses: list[Tensor],
) -> str:
    rate = here / (time.monotonic() - began)
    to_go = (steps - done) / rate
    left = deadline.seconds_left
    eta = describe_seconds(to_go if left is None else min(left, to_go))
    loss = float(torch.stack(losses[-50:]).mean()) if losses else float("nan")
    speed = rate * trainee.samples_per_step
    return f"{name}: step {done} of {steps}, loss {loss:.4f}, {speed:.0f} samples/s, ETA {eta}"
