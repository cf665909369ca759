"""The stages end to end, tiny: rendering, synthesis, finish, mapping, export."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from demo.portraits.render import render_portraits
from demo.portraits.sampling import parameter_vector, sample_portraits
from demo.train.clock import Deadline
from demo.train.colours import ColoursConfig, ColoursTrainee
from demo.train.descent import Schedule
from demo.train.finish import FinishConfig
from demo.train.loop import Rhythm
from demo.train.shards import PortraitShards, SeriesConfig, open_series, to_pictures
from demo.train.stages import STAGES, TRAIN_SEED, Plan, select_stages
from demo.train.synthesis import SynthesisConfig, load_conditioned
from styleclip_ops.checkpoints import load_generator

ROOT = Path(__file__).parents[2]
CHANNELS = (12, 12, 8, 8)
BEFORE = {
    "synthesis": ["data"],
    "finish": ["data", "synthesis"],
}


def plan_in(folder, steps=4):
    return Plan(
        runs=folder / "runs",
        models=folder / "models",
        device=torch.device("cpu"),
        size=32,
        num=8,
        held_out=4,
        shard=4,
        synthesis=SynthesisConfig(CHANNELS, batch=4),
        finish=FinishConfig(batch=4, r1_every=2),
        colours=ColoursConfig(batch=4),
        synthesis_steps=steps,
        finish_steps=steps,
        rhythm=Rhythm(save=1000, say=1000),
    )


def run(plan, *stages):
    lines = []
    for stage in stages:
        STAGES[stage](plan, Deadline(), lines.append)
    return lines


def saved(plan, stage):
    return torch.load(plan.runs / stage / "checkpoint.pt", weights_only=True)


def flat(state):
    if isinstance(state, dict):
        return [item for key in sorted(state, key=str) for item in flat(state[key])]
    if isinstance(state, list | tuple):
        return [item for part in state for item in flat(part)]
    return [state]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    plan = plan_in(tmp_path_factory.mktemp("train"))
    lines = run(plan, "data", "synthesis", "finish", "mapping")
    return plan, lines


def test_shards_hold_the_portraits_of_the_seed(trained):
    plan, _ = trained
    shards = plan.shards("train")
    assert len(shards) == 8
    assert shards.size == 32
    portraits = sample_portraits(8, TRAIN_SEED)
    torch.testing.assert_close(shards.parameters, parameter_vector(portraits))
    pictures = to_pictures(shards.levels(torch.tensor([6, 1])))
    wanted = render_portraits([portraits[6], portraits[1]], 32).clamp(-1, 1)
    assert (pictures - wanted).abs().max().item() < 0.6 / 127.5


def test_held_out_portraits_are_others(trained):
    plan, _ = trained
    mine, others = plan.shards("train").parameters, plan.shards("heldout").parameters
    assert torch.cdist(mine, others).min() > 0.1


def test_rendering_continues_where_it_was(trained):
    plan, _ = trained
    folder = plan.series_folder("train")
    lost = folder / "pictures-00001.npy"
    before = np.load(lost)
    lost.unlink()
    assert len(plan.shards("train")) == 4
    kept = (folder / "pictures-00000.npy").stat().st_mtime_ns
    run(plan, "data")
    assert np.array_equal(np.load(lost), before)
    assert (folder / "pictures-00000.npy").stat().st_mtime_ns == kept


def test_no_shard_is_begun_after_the_deadline(tmp_path):
    plan = plan_in(tmp_path)
    STAGES["data"](plan, Deadline(0), print)
    with pytest.raises(ValueError, match="run the stage `data` first"):
        plan.shards("train")


def test_a_folder_of_another_series_is_refused(tmp_path):
    open_series(tmp_path, SeriesConfig(seed=1, size=32))
    with pytest.raises(ValueError, match="remove the folder to render anew"):
        open_series(tmp_path, SeriesConfig(seed=2, size=32))


def test_workers_render_the_same(trained, tmp_path):
    plan, _ = trained
    run(replace(plan, runs=tmp_path, workers=2), "data")
    rows = torch.arange(8)
    others = PortraitShards(tmp_path / "data" / "32px" / "train")
    assert torch.equal(others.levels(rows), plan.shards("train").levels(rows))


@pytest.mark.parametrize("stage", ["synthesis", "finish"])
def test_interrupted_run_equals_uninterrupted_run(trained, tmp_path, stage):
    plan, _ = trained
    other = replace(plan, runs=tmp_path, models=tmp_path)
    for name in BEFORE[stage]:
        (tmp_path / name).symlink_to(plan.runs / name)
    run(replace(other, synthesis_steps=2, finish_steps=2), stage)
    assert saved(other, stage)["step"] == 2
    run(other, stage)
    assert saved(other, stage)["step"] == 4
    mine, theirs = (flat(saved(p, stage)["trainee"]) for p in (other, plan))
    assert len(mine) == len(theirs) > 20
    for a, b in zip(mine, theirs, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_training_begins_with_finished_weights_where_nothing_else_is_left(trained, tmp_path):
    plan, _ = trained
    (tmp_path / "data").symlink_to(plan.runs / "data")
    other = replace(plan, runs=tmp_path, synthesis_steps=1, from_models=True)
    run(other, "synthesis")
    mine = load_conditioned(saved(other, "synthesis")["trainee"])
    theirs = load_conditioned(saved(plan, "finish")["trainee"])
    parameters = plan.shards("heldout").parameters
    # One step and half precision apart: nearer than a beginning from nothing is.
    assert (mine(parameters) - theirs(parameters)).abs().max() < 0.25
    fresh = load_conditioned(saved(plan, "synthesis")["trainee"])
    assert (mine(parameters) - fresh(parameters)).abs().max() > 0.25


def test_finish_sharpens_synthesis_and_leaves_the_map_to_w(trained):
    plan, _ = trained
    before, after = (saved(plan, s)["trainee"]["average"] for s in ("synthesis", "finish"))
    for name, weight in after.items():
        same = torch.equal(weight, before[name])
        assert same == ("parameter_to_w" in name or is_unused(name)), name


def test_colours_leave_the_styles_that_edits_do_not_reach(trained, tmp_path):
    plan, _ = trained
    for name in ("data", "finish"):
        (tmp_path / name).symlink_to(plan.runs / name)
    other = replace(plan, runs=tmp_path, models=tmp_path, colours_steps=2)
    run(other, "colours", "mapping")
    generator = load_generator(tmp_path / "generator.safetensors")
    s = generator.w_plus_to_s(torch.randn(3, generator.num_ws, 512))
    for layer in generator.layout.layers:
        spread = float(s[:, layer.span].std(dim=0).max())
        assert spread < 1e-5 if layer.is_torgb else spread > 1e-2, layer.name


def test_pictures_come_back_without_the_rgb_styles(trained):
    plan, _ = trained
    teacher = load_conditioned(saved(plan, "finish")["trainee"])
    mine = ColoursTrainee(
        ColoursConfig(batch=8, mixed=0.25, schedule=Schedule(3e-3, warmup=5)),
        teacher,
        plan.shards("train"),
        plan.shards("heldout"),
        plan.device,
    )
    losses = [mine.step(index).item() for index in range(100)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def is_unused(name):
    """Whether the stage `finish` has nothing to train in a tensor of the model."""
    return "mapping" in name or "noise" in name


def test_finished_run_is_left_alone(trained):
    plan, _ = trained
    before = (plan.runs / "synthesis" / "checkpoint.pt").stat().st_mtime_ns
    assert run(plan, "synthesis") == []
    assert (plan.runs / "synthesis" / "checkpoint.pt").stat().st_mtime_ns == before


def test_stages_leave_curves_sheets_and_a_card(trained):
    plan, lines = trained
    for stage in ("synthesis", "finish"):
        for name in ("curve.jsonl", "curve.png", "sheet.png"):
            assert (plan.runs / stage / name).stat().st_size > 0
    card = (plan.models / "generator.md").read_text()
    assert "heldout_l1" in card
    assert "8 renders of 32 px" in card
    assert any("heldout_l1" in line for line in lines)


def test_written_generator_draws(trained):
    plan, _ = trained
    generator = load_generator(plan.models / "generator.safetensors")
    assert generator.config.channels == CHANNELS
    assert generator.w_avg.abs().sum() > 0
    z = torch.randn(2, 512, generator=torch.Generator().manual_seed(0))
    pictures = generator(generator.w_to_w_plus(generator.mapping(z), truncation_psi=0.7))
    assert pictures.shape == (2, 3, 32, 32)
    assert pictures.isfinite().all()


def test_wrong_widths_and_missing_stages_are_named(trained, tmp_path):
    plan, _ = trained
    wrong = replace(plan, runs=tmp_path, synthesis=SynthesisConfig((8, 8, 8, 8, 8)))
    (tmp_path / "data").symlink_to(plan.runs / "data")
    with pytest.raises(ValueError, match="expected those of the portraits' 32 px"):
        run(wrong, "synthesis")
    for stage in ("colours", "mapping"):
        with pytest.raises(ValueError, match="run the stage `synthesis` first"):
            run(wrong, stage)


def test_stages_and_groups_are_selected_with_their_seconds():
    assert [*select_stages(["data:90", "finish"])] == [("data", 90.0), ("finish", None)]
    names, seconds = zip(*select_stages(["generator:100"]), strict=True)
    assert names == ("synthesis", "colours", "mapping")
    assert sum(seconds) == pytest.approx(100)
    with pytest.raises(ValueError, match="stage: got 'generators', expected one of"):
        [*select_stages(["generators"])]


def test_command_ends_in_time(tmp_path):
    folders = ["--runs", tmp_path / "runs", "--models", tmp_path / "models"]
    command = [sys.executable, "-m", "demo.train", "data:0", "--size", "32", *folders]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "data" / "32px" / "train" / "series.json").exists()
