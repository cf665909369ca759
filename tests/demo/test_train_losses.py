"""Losses, schedules, curves and the short cut from normal vectors to parameters."""

import pytest
import torch

from demo.portraits.sampling import NUM_NORMALS, parameter_vector, portraits_from_normal
from demo.train.clock import Deadline, describe_seconds
from demo.train.curve import append_row, draw_curve, read_rows
from demo.train.descent import Schedule
from demo.train.losses import face_weight, gradient_l1, laplacian_l1, reconstruction_loss
from demo.train.normals import parameters_from_normal


def test_short_cut_gives_the_parameters_of_the_portraits():
    z = torch.randn(400, NUM_NORMALS + 3, generator=torch.Generator().manual_seed(1))
    wanted = parameter_vector(portraits_from_normal(z[:, :NUM_NORMALS]))
    torch.testing.assert_close(parameters_from_normal(z), wanted)


def test_losses_vanish_for_equal_pictures_only():
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    assert reconstruction_loss(pictures, pictures).item() == 0
    assert reconstruction_loss(pictures, pictures.roll(1, -1)).item() > 0


def test_the_face_counts_more_and_what_hangs_from_the_ears_most():
    weight = face_weight(64)
    face = weight[:, 22:42]
    assert 2.9 < weight[38, 32].item() == pytest.approx(face.max().item(), abs=0.01)
    assert 6 < weight[45, 13].item() == pytest.approx(weight.max().item(), abs=0.05)
    assert weight[0, 0].item() < 1.01
    assert torch.equal(weight, weight.flip(1))


def test_edges_cost_more_than_brightness():
    brighter = torch.full((1, 3, 32, 32), 0.1)
    edge = torch.zeros(1, 3, 32, 32)
    edge[..., 16] = 3.2
    assert edge.mean().item() == pytest.approx(brighter.mean().item())
    assert gradient_l1(brighter).item() == 0 < gradient_l1(edge).item()
    assert laplacian_l1(brighter).item() < 1e-6 < laplacian_l1(edge).item()


def test_schedule_rises_holds_and_falls():
    schedule = Schedule(0.1, warmup=10, hold=100)
    assert schedule.at(0) == pytest.approx(0.01)
    assert schedule.at(50) == schedule.at(100) == pytest.approx(0.1)
    assert schedule.at(400) == pytest.approx(0.05)


def test_deadline_ends_by_time_or_by_hand():
    assert Deadline(0).passed
    whole = Deadline()
    part = whole.within(1000)
    assert whole.seconds_left is None
    assert not part.passed
    assert 990 < (part.seconds_left or 0) <= 1000
    whole.stop()
    assert part.passed
    assert describe_seconds(3725) == "1:02:05"


def test_curve_is_kept_and_drawn(tmp_path):
    for step in range(3):
        append_row(tmp_path / "curve.jsonl", {"minutes": float(step), "loss": 1.0 / (step + 1)})
    rows = read_rows(tmp_path / "curve.jsonl")
    assert [row["minutes"] for row in rows] == [0, 1, 2]
    colors = draw_curve(rows, "minutes", ["loss"]).getcolors(1 << 20)
    assert colors is not None
    assert len(colors) > 3
