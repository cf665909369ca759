"""The stages of the training, in order: what each reads, makes, and is called with.

A further stage is a module with a configuration and a `demo.train.loop.Trainee`, a field for each
in Plan, a function `run_...` here that opens what it reads, and an entry in STAGES.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from demo.train.clock import Deadline
from demo.train.data import render_series
from demo.train.export import export_generator
from demo.train.finish import FinishConfig, FinishTrainee
from demo.train.loop import Rhythm, restart_if_moved, train
from demo.train.mapping import MappingConfig, MappingTrainee
from demo.train.progress import Report
from demo.train.shards import PortraitShards, SeriesConfig
from demo.train.synthesis import (
    ConditionedGenerator,
    SynthesisConfig,
    SynthesisTrainee,
    load_conditioned,
)

# Widths whose generator, with a mapping network of 512, takes 7 MB in half precision.
CHANNELS: Mapping[int, tuple[int, ...]] = {
    32: (128, 128, 96, 64),
    64: (128, 128, 96, 64, 32),
    128: (128, 128, 96, 64, 48, 32),
}
TRAIN_SEED, HELD_OUT_SEED = 1, 2


@dataclass(frozen=True)
class Plan:
    """Everything that a training is asked to be.

    Attributes:
        runs: Folder of all state.
        models: Folder for finished weights.
        device: Where to train and render.
        size: Side of the portraits in pixels.
        num: Portraits to render and learn from.
        held_out: Portraits kept for judging.
        shard: Portraits in a file.
        workers: Processes that render, on a processor.
        synthesis, finish, mapping: How to train in these stages.
        synthesis_steps, finish_steps, mapping_steps: Where they end.
        rhythm: How often to save and to speak.
    """

    runs: Path
    models: Path
    device: torch.device
    size: int = 64
    num: int = 48_000
    held_out: int = 512
    shard: int = 512
    workers: int = 1
    synthesis: SynthesisConfig = field(default_factory=lambda: SynthesisConfig(CHANNELS[64]))
    finish: FinishConfig = field(default_factory=FinishConfig)
    mapping: MappingConfig = field(default_factory=MappingConfig)
    synthesis_steps: int = 200_000
    finish_steps: int = 20_000
    mapping_steps: int = 20_000
    rhythm: Rhythm = field(default_factory=Rhythm)

    def series_folder(self, name: str) -> Path:
        """Return the folder of the series `train` or `heldout`."""
        return self.runs / "data" / f"{self.size}px" / name

    def shards(self, name: str) -> PortraitShards:
        """Open what is rendered of the series `train` or `heldout`."""
        limit = self.num if name == "train" else self.held_out
        return PortraitShards(self.series_folder(name), limit)


Stage = Callable[[Plan, Deadline, Report], None]


def run_data(plan: Plan, deadline: Deadline, report: Report) -> None:
    """Render the held-out portraits and those to learn from."""
    for name, seed, num in (
        ("heldout", HELD_OUT_SEED, plan.held_out),
        ("train", TRAIN_SEED, plan.num),
    ):
        series = SeriesConfig(seed, plan.size, plan.shard)
        folder = plan.series_folder(name)
        render_series(folder, series, num, deadline, report, plan.device, plan.workers)


def run_synthesis(plan: Plan, deadline: Deadline, report: Report) -> None:
    """Train the synthesis network from parameters."""
    trainee = SynthesisTrainee(
        plan.synthesis, plan.shards("train"), plan.shards("heldout"), plan.device
    )
    folder = plan.runs / "synthesis"
    train(trainee, folder, plan.synthesis_steps, deadline, report, plan.rhythm)


def run_finish(plan: Plan, deadline: Deadline, report: Report) -> None:
    """Sharpen the synthesis network adversarially; to begin anew, remove its folder."""
    conditioned, _ = _conditioned(plan, "synthesis")
    trainee = FinishTrainee(
        plan.finish, conditioned, plan.shards("train"), plan.shards("heldout"), plan.device
    )
    train(trainee, plan.runs / "finish", plan.finish_steps, deadline, report, plan.rhythm)


def run_mapping(plan: Plan, deadline: Deadline, report: Report) -> None:
    """Train the mapping network for the synthesis network as it is, and write the generator."""
    finished = (plan.runs / "finish" / "checkpoint.pt").exists()
    stage = "finish" if finished else "synthesis"
    conditioned, step = _conditioned(plan, stage)
    trainee = MappingTrainee(plan.mapping, conditioned, plan.device)
    folder = plan.runs / "mapping"
    restart_if_moved(folder, {"stage": stage, "step": step})
    train(trainee, folder, plan.mapping_steps, deadline, report, plan.rhythm)
    path = export_generator(
        trainee.finished_generator(), plan.models, plan.runs, plan.shards("train")
    )
    report(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB")


def _conditioned(plan: Plan, stage: str) -> tuple[ConditionedGenerator, int]:
    """Load the averaged generator that `synthesis` or `finish` has come to, and its step."""
    checkpoint = plan.runs / stage / "checkpoint.pt"
    if not checkpoint.exists():
        raise ValueError(f"{checkpoint}: not found; run the stage `{stage}` first")
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return load_conditioned(saved["trainee"]), saved["step"]


STAGES: Mapping[str, Stage] = {
    "data": run_data,
    "synthesis": run_synthesis,
    "finish": run_finish,
    "mapping": run_mapping,
}

# group -> its stages, with the share of the group's time that each takes
GROUPS: Mapping[str, Mapping[str, float]] = {"generator": {"synthesis": 0.85, "mapping": 0.15}}


def select_stages(wanted: Sequence[str]) -> Iterator[tuple[str, float | None]]:
    """Resolve names of stages and groups.

    Args:
        wanted: Each `NAME`, or `NAME:SECONDS` for a limit; a group's limit is shared out.

    Yields:
        Names of stages with their limits, None for no limit.

    Raises:
        ValueError: if there is no such stage, or the limit is no number.
    """
    for given in wanted:
        name, _, limit = given.partition(":")
        seconds = float(limit) if limit else None
        for stage, share in GROUPS.get(name, {name: 1.0}).items():
            if stage not in STAGES:
                raise ValueError(f"stage: got {name!r}, expected one of {[*STAGES, *GROUPS]}")
            yield stage, None if seconds is None else seconds * share
