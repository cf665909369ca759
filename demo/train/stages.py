"""The stages of the training, in order: what each reads, makes, and is called with.

A further stage is a module with a configuration and a `demo.train.loop.Trainee`, a field for each
in Plan, a function `run_...` here that opens what it reads, and an entry in STAGES.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from demo.train.clip import ClipTrainee, ClipTraining
from demo.train.clip_export import CLIP, SECOND, ClipExport, export_clip
from demo.train.clip_judging import ClipJudge
from demo.train.clock import Deadline
from demo.train.colours import ColoursConfig, ColoursTrainee
from demo.train.crops import render_crop_series
from demo.train.data import render_series
from demo.train.encoder import EncoderConfig, EncoderSources, EncoderTrainee, export_encoder
from demo.train.export import export_generator
from demo.train.finish import FinishConfig, FinishTrainee
from demo.train.identity import (
    HeldOutPersons,
    IdentityConfig,
    IdentityTrainee,
    export_identity,
)
from demo.train.judge import JudgeConfig, judge_models
from demo.train.loop import Rhythm, restart_if_moved, train
from demo.train.mapping import attach_mapping, measure_mapping, recover_conditioned
from demo.train.persons import PersonsConfig, render_persons
from demo.train.probes import load_probe
from demo.train.probing import ProbeTrainee, ProbeTraining, export_probe
from demo.train.progress import Report
from demo.train.scaling import scale_latents
from demo.train.shards import PortraitShards, SeriesConfig
from demo.train.synthesis import (
    ConditionedGenerator,
    SynthesisConfig,
    SynthesisTrainee,
    load_conditioned,
)
from styleclip_ops.checkpoints import load_arcface, load_clip, load_e4e, load_generator

# Widths whose generator, with a mapping network of 512, takes 7 MB in half precision.
CHANNELS: Mapping[int, tuple[int, ...]] = {
    32: (128, 128, 96, 64),
    64: (128, 128, 96, 64, 32),
    128: (128, 128, 96, 64, 48, 32),
}
TRAIN_SEED, HELD_OUT_SEED, CROPS_SEED, PERSONS_SEED, EDITS_SEED = 1, 2, 3, 4, 5
# It judges what the first one steers: it shares neither first weights nor batches nor captions with
# it. No edit follows its gradient, so that its latents need no attack.
SECOND_CLIP = ClipTraining(seed=50, pool_seed=7, latent_attack=0.0)
# Of latents that the mean w and the errors of the mapping network are measured on.
_MAPPING_SEED = 10
# Portraits that the scales of W and S are measured on.
_SCALED_ON = 1024


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
        crops: Portraits before rooms, for the encoder.
        persons: Persons, portrayed again and again, kept for judging the identity network.
        edit_pairs: Pairs of portraits for each edit that CLIP is judged by.
        shard: Portraits in a file.
        workers: Processes that render, on a processor.
        from_models: Begin synthesis, CLIP and encoder with the weights in `models`, where no
            checkpoint is there to continue; its generator draws for the CLIP.
        synthesis, finish, colours, probes, identity, clip, second_clip, encoder: How to train in
            these stages.
        synthesis_steps, finish_steps, colours_steps, probes_steps, identity_steps, clip_steps,
            encoder_steps: Where they end.
        rhythm: How often to save and to speak.
    """

    runs: Path
    models: Path
    device: torch.device
    size: int = 64
    num: int = 48_000
    held_out: int = 512
    crops: int = 2048
    persons: PersonsConfig = field(default_factory=lambda: PersonsConfig(PERSONS_SEED))
    edit_pairs: int = 8
    shard: int = 512
    workers: int = 1
    from_models: bool = False
    synthesis: SynthesisConfig = field(default_factory=lambda: SynthesisConfig(CHANNELS[64]))
    finish: FinishConfig = field(default_factory=FinishConfig)
    colours: ColoursConfig = field(default_factory=ColoursConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    probes: ProbeTraining = field(default_factory=ProbeTraining)
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    clip: ClipTraining = field(default_factory=ClipTraining)
    second_clip: ClipTraining = SECOND_CLIP
    synthesis_steps: int = 200_000
    finish_steps: int = 20_000
    colours_steps: int = 5000
    encoder_steps: int = 20_000
    probes_steps: int = 8000
    identity_steps: int = 4000
    clip_steps: int = 20_000
    rhythm: Rhythm = field(default_factory=Rhythm)

    def series_folder(self, name: str) -> Path:
        """Return the folder of the series `train`, `heldout` or `crops`."""
        return self.runs / "data" / f"{self.size}px" / name

    def shards(self, name: str) -> PortraitShards:
        """Open what is rendered of the series `train`, `heldout` or `crops`."""
        limits = {"train": self.num, "heldout": self.held_out, "crops": self.crops}
        return PortraitShards(self.series_folder(name), limits[name])


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
    folder, shards = plan.runs / "synthesis", plan.shards("train")
    begin = None
    if plan.from_models and not (folder / "checkpoint.pt").exists():
        begin = recover_conditioned(load_generator(plan.models / "generator.safetensors"))
        scale_latents(begin, shards.parameters[:_SCALED_ON], w_std=1.0)
    trainee = SynthesisTrainee(plan.synthesis, shards, plan.shards("heldout"), plan.device, begin)
    train(trainee, folder, plan.synthesis_steps, deadline, report, plan.rhythm)


def run_finish(plan: Plan, deadline: Deadline, report: Report) -> None:
    """Sharpen the synthesis network adversarially; to begin anew, remove its folder."""
    conditioned, _ = _conditioned(plan, "synthesis")
    trainee = FinishTrainee(
        plan.finish, conditioned, plan.shards("train"), plan.shards("heldout"), plan.device
    )
    train(trainee, plan.runs / "finish", plan.finish_steps, deadline, report, plan.rhythm)


def run_colours(plan: Plan, deadline: Deadline, report: Report) -> None:
    """Move the colours from the toRGB styles to the convolutions, which edits reach."""
    folder, shards = plan.runs / "colours", plan.shards("train")
    drawn = _latest(plan, ("finish", "synthesis"))
    source: dict[str, object] = {"stage": drawn}
    if drawn is not None:
        teacher, source["step"] = _conditioned(plan, drawn)
    elif plan.from_models:
        teacher = recover_conditioned(load_generator(plan.models / "generator.safetensors"))
    else:
        raise ValueError(f"{plan.runs}: got no generator; run the stage `synthesis` first")
    scale_latents(teacher, shards.parameters[:_SCALED_ON], w_std=1.0)
    trainee = ColoursTrainee(plan.colours, teacher, shards, plan.shards("heldout"), plan.device)
    restart_if_moved(folder, source)
    train(trainee, folder, plan.colours_steps, deadline, report, plan.rhythm)


def run_mapping(plan: Plan, _deadline: Deadline, report: Report) -> None:
    """Write down the mapping network of the synthesis network as it is, and write the generator."""
    conditioned, _ = _mapped(plan)
    figures = measure_mapping(conditioned, _MAPPING_SEED + 1)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    report(f"mapping: {shown}")
    path = export_generator(
        conditioned.generator, plan.models, plan.runs, plan.shards("train"), figures
    )
    report(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB")


def run_probes(plan: Plan, deadline: Deadline, report: Report) -> None:
    """Train the probe that tells attributes, and write it."""
    shards = plan.shards("train")
    trainee = ProbeTrainee(plan.probes, shards, plan.shards("heldout"), plan.device)
    train(trainee, plan.runs / "probes", plan.probes_steps, deadline, report, plan.rhythm)
    path = export_probe(trainee, plan.models, plan.runs, shards)
    report(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB")


def run_identity(plan: Plan, deadline: Deadline, report: Report) -> None:
    """Render the persons to be judged by, train the identity network, and write it."""
    persons, shards = plan.persons, plan.shards("train")
    folder = plan.runs / "data" / f"{persons.size}px" / "persons"
    render_persons(folder, persons, deadline, report, plan.device)
    known = PortraitShards(folder, persons.persons * persons.portraits)
    held_out = HeldOutPersons(known, persons.portraits, plan.size, plan.device)
    trainee = IdentityTrainee(plan.identity, shards, held_out, plan.device)
    train(trainee, plan.runs / "identity", plan.identity_steps, deadline, report, plan.rhythm)
    data = f"{len(shards)} renders of {shards.size} px, series {shards.card}"
    path = export_identity(trainee, held_out, plan.models, plan.runs, data)
    report(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB")


def run_clip(plan: Plan, deadline: Deadline, report: Report) -> None:
    """Train the CLIP, and write it."""
    _train_clip(plan, CLIP, plan.clip, deadline, report)


def run_second_clip(plan: Plan, deadline: Deadline, report: Report) -> None:
    """Train the CLIP that judges edits and steers none, and write it."""
    _train_clip(plan, SECOND, plan.second_clip, deadline, report)


def _train_clip(
    plan: Plan, export: ClipExport, config: ClipTraining, deadline: Deadline, report: Report
) -> None:
    shards = plan.shards("train")
    judge = ClipJudge(plan.shards("heldout"), plan.edit_pairs, EDITS_SEED, plan.device)
    folder, begin = plan.runs / export.name, None
    finished = plan.models / export.name
    if plan.from_models and finished.exists():
        config = replace(config, classify_first=0)
        if not (folder / "checkpoint.pt").exists():
            begin = load_clip(finished)
    trainee = ClipTrainee(config, shards, judge, plan.device, begin, _drawer(plan))
    train(trainee, folder, plan.clip_steps, deadline, report, plan.rhythm)
    path = export_clip(export, trainee.clip, judge, plan.models, plan.runs, shards)
    report(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB")


def run_encoder(plan: Plan, deadline: Deadline, report: Report) -> None:
    """Train the encoder for the generator as it is, and write it."""
    conditioned, source = _mapped(plan)
    series = SeriesConfig(CROPS_SEED, plan.size, plan.shard)
    folder = plan.series_folder("crops")
    render_crop_series(folder, series, plan.crops, deadline, report, plan.device)
    probe = load_probe(plan.models / "probes.safetensors").to(plan.device)
    identity = load_arcface(plan.models / "identity.safetensors").to(plan.device)
    sources = EncoderSources(
        conditioned.to(plan.device),
        plan.shards("train"),
        plan.shards("crops"),
        plan.shards("heldout"),
        identity,
        probe,
    )
    begin = None
    if plan.from_models and not (plan.runs / "encoder" / "checkpoint.pt").exists():
        begin = load_e4e(plan.models / "encoder.safetensors")
    trainee = EncoderTrainee(plan.encoder, sources, plan.device, begin)
    restart_if_moved(plan.runs / "encoder", source)
    train(trainee, plan.runs / "encoder", plan.encoder_steps, deadline, report, plan.rhythm)
    path = export_encoder(trainee.encoder, plan.models, plan.runs, sources)
    report(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB")


def run_judge(plan: Plan, deadline: Deadline, report: Report) -> None:
    """Judge the finished models, and write the figures into their cards."""
    judge_models(
        plan.judge,
        plan.models,
        plan.shards("train"),
        plan.shards("heldout"),
        plan.runs / "judge",
        plan.device,
        deadline,
        report,
    )


def _drawer(plan: Plan) -> ConditionedGenerator | None:
    """Load the generator that draws portraits for the CLIP, where there is one."""
    if _latest(plan, _DRAWING) is not None:
        return _mapped(plan)[0]
    if plan.from_models:
        finished = load_generator(plan.models / "generator.safetensors")
        return recover_conditioned(finished).to(plan.device)
    return None


def _mapped(plan: Plan) -> tuple[ConditionedGenerator, dict[str, object]]:
    """Load the latest generator, scaled and with its mapping network, and what it came from."""
    stage = _latest(plan, _DRAWING) or _DRAWING[-1]
    conditioned, step = _conditioned(plan, stage)
    scale_latents(conditioned, plan.shards("train").parameters[:_SCALED_ON])
    attach_mapping(conditioned, _MAPPING_SEED)
    return conditioned.to(plan.device), {"stage": stage, "step": step}


# Stages that train the generator, the latest first.
_DRAWING = ("colours", "finish", "synthesis")


def _latest(plan: Plan, stages: Sequence[str]) -> str | None:
    """Name the first of some stages that has a checkpoint."""
    return next((s for s in stages if (plan.runs / s / "checkpoint.pt").exists()), None)


def _conditioned(plan: Plan, stage: str) -> tuple[ConditionedGenerator, int]:
    """Load the averaged generator that a stage has come to, and its step."""
    checkpoint = plan.runs / stage / "checkpoint.pt"
    if not checkpoint.exists():
        raise ValueError(f"{checkpoint}: not found; run the stage `{stage}` first")
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return load_conditioned(saved["trainee"]), saved["step"]


STAGES: Mapping[str, Stage] = {
    "data": run_data,
    "synthesis": run_synthesis,
    "finish": run_finish,
    "colours": run_colours,
    "mapping": run_mapping,
    "probes": run_probes,
    "clip": run_clip,
    "second-clip": run_second_clip,
    "identity": run_identity,
    "encoder": run_encoder,
    "judge": run_judge,
}

# Names for several stages, each with its share of a limit.
GROUPS: Mapping[str, Mapping[str, float]] = {
    "generator": {"synthesis": 0.88, "colours": 0.10, "mapping": 0.02},
    "all": {
        "data": 0.10,
        "probes": 0.10,
        "identity": 0.07,
        "synthesis": 0.25,
        "colours": 0.04,
        "mapping": 0.01,
        "clip": 0.16,
        "second-clip": 0.08,
        "encoder": 0.14,
        "judge": 0.05,
    },
}


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
