"""Scenes: truth about the faces, and dlib finds them."""

from statistics import median

import pytest
import torch

from demo.portraits.detection import FaceFinder, contains, frame_offset
from demo.portraits.scene import face_truths, render_scenes, sample_scenes


def test_scene_depends_on_seed_and_index_only():
    assert sample_scenes(5, seed=1)[:2] == sample_scenes(2, seed=1)
    assert {len(s.placements) for s in sample_scenes(60, seed=0)} == {0, 1, 2}


def test_truth_is_a_square_around_the_face():
    scene = sample_scenes(1, seed=2, people=1)[0]
    truth = face_truths(scene, 256)[0]
    sides = (truth.quad - truth.quad.roll(1, 0)).norm(dim=1)
    torch.testing.assert_close(sides, torch.full((4,), scene.placements[0].scale * 256))
    left, top, right, bottom = truth.box
    middle = truth.quad.mean(0)
    assert left < middle[0] < right
    assert top < middle[1] < bottom


def test_pictures_have_the_asked_size_and_range():
    pictures = render_scenes(sample_scenes(2, seed=3), 96)
    assert pictures.shape == (2, 3, 96, 96)
    assert pictures.abs().max() <= 1


def test_dlib_finds_the_faces_where_they_are():
    finder, offsets = FaceFinder(), []
    for scene in sample_scenes(40, seed=4, people=1):
        quad = face_truths(scene)[0].quad
        faces = finder.landmarks(render_scenes([scene])[0])
        inside = [points for points in faces if contains(quad, points)]
        offsets.extend(frame_offset(points, quad) for points in inside[:1])
    assert len(offsets) >= 0.95 * 40
    assert median(o.scale for o in offsets) == pytest.approx(1, abs=0.07)
    assert median(abs(o.turn) for o in offsets) < 4


def test_impossible_number_of_people_is_refused():
    with pytest.raises(ValueError, match="people: got 3, expected 0, 1, 2 or None"):
        sample_scenes(1, seed=0, people=3)
