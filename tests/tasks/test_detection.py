"""dlib's faces: those of the published search at full size, found in a fraction of the time."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from styleclip_ops.errors import ConfigError
from tasks.photos import detection
from tasks.photos.detection import face_detector, finest_level, smallest_side

from published import golden

PHOTOS = Path(__file__).parents[2] / "demo" / "photos"
PEOPLE = json.loads((PHOTOS / "people.json").read_text())


def photograph(name: str) -> Image.Image:
    return Image.open(PHOTOS / name).convert("RGB")


def golden_photograph(name: str) -> Image.Image:
    arrays = golden(name)
    if "source_rgb" in arrays:
        return Image.fromarray(arrays["source_rgb"].numpy())
    return photograph("astronaut.png")


GOLDEN = ["astronaut", "astronaut_tight", "obama_tight"]


@pytest.mark.parametrize("name", GOLDEN)
def test_a_thorough_search_finds_what_the_published_code_finds(name):
    expected = golden(name)
    (face,) = face_detector().find_faces(golden_photograph(name), 64)
    assert face.box == tuple(expected["det_rects_run"][0].tolist())
    assert face.score == pytest.approx(float(expected["det_scores"][0]), abs=0.1)
    np.testing.assert_array_equal(face.landmarks, expected["det0_landmarks"].numpy())
    np.testing.assert_allclose(face.quad, expected["det0_quad"].numpy(), atol=1e-9)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_quick_search_finds_the_same_quad(name):
    face, *_ = face_detector().find_faces(golden_photograph(name), 64, only_largest=True)
    np.testing.assert_allclose(face.quad, golden(name)["det0_quad"].numpy(), atol=2)


def published_boxes(photo: Image.Image) -> list[tuple[int, int, int, int]]:
    boxes, _, _ = dlib.get_frontal_face_detector().run(np.ascontiguousarray(photo), 1, 0.15)
    return [(box.left(), box.top(), box.right(), box.bottom()) for box in boxes]


# At some of these sizes the face fits the smallest window of a level, or one that is smaller yet.
@pytest.mark.parametrize("scale", [0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4])
@pytest.mark.parametrize("name", ["astronaut.png", "grace_hopper.jpg"])
def test_a_quick_search_finds_the_same_box_at_any_size(name, scale):
    photo = photograph(name)
    size = (round(photo.width * scale), round(photo.height * scale))
    photo = photo.resize(size, Image.Resampling.BICUBIC)
    face, *_ = face_detector().find_faces(photo, 64, only_largest=True)
    assert face.box == published_boxes(photo)[0]


@pytest.mark.parametrize(("left", "top"), [(185, 0), (207, 0), (226, 0), (0, 144), (0, 176)])
def test_a_face_cut_off_by_the_edge_has_the_same_box(left, top):
    # A window that begins outside is wider than it is high, or higher than it is wide.
    photo = photograph("grace_hopper.jpg")
    photo = photo.crop((left, top, photo.width, photo.height))
    face, *_ = face_detector().find_faces(photo, 64, only_largest=True)
    assert face.box[0] < 0 or face.box[1] < 0
    assert face.box == published_boxes(photo)[0]


@given(st.integers(20, 300), st.integers(20, 300), st.integers(1, 9))
def test_levels_have_the_sizes_that_dlib_gives_them(width, height, levels):
    pixels = np.zeros((*detection._level_size((width, height), 0)[::-1], 3), np.uint8)
    shrink = dlib.pyramid_down(6)
    for _ in range(levels):
        pixels = shrink(pixels)
    size = detection._level_size((width, height), levels)
    assert size == (pixels.shape[1], pixels.shape[0])


def test_small_photographs_are_searched_in_dlibs_own_pixels():
    photo = photograph("astronaut.png")
    boxes, scores, _ = dlib.get_frontal_face_detector().run(np.ascontiguousarray(photo), 1, 0.15)
    for level in (0, 1, 2):
        (face,) = face_detector().find_faces(photo, smallest_side(level) + 0.1)
        assert finest_level(*photo.size, smallest_side(level) + 0.1) == level
        assert face.score == scores[0]
        assert face.box[0] == boxes[0].left()


def test_a_large_photograph_gives_the_quad_of_a_search_at_full_size():
    photo = photograph("grace_hopper.jpg").resize((1024, 1200), Image.Resampling.BICUBIC)
    pixels = np.ascontiguousarray(photo)
    boxes, _, _ = dlib.get_frontal_face_detector().run(pixels, 1, 0.15)
    # The search for a face this large has a fourth of those pixels to look at.
    assert finest_level(*photo.size, 500) == 4
    (face,) = face_detector().find_faces(photo, 500)
    assert face.box == (boxes[0].left(), boxes[0].top(), boxes[0].right(), boxes[0].bottom())
    predictor = dlib.shape_predictor(str(detection.landmark_model()))
    points = [[p.x, p.y] for p in predictor(pixels, boxes[0]).parts()]
    np.testing.assert_array_equal(face.landmarks, points)


@pytest.mark.parametrize("name", ["pair-1.jpg", "three.jpg", "person-1.jpg", "nobody.jpg"])
def test_everybody_is_found_the_largest_first(name):
    faces = face_detector().find_faces(photograph(name), 64)
    people = [np.array(person["quad"]) for person in PEOPLE[name]]
    assert len(faces) == len(people)
    assert [face.side for face in faces] == sorted((face.side for face in faces), reverse=True)
    for quad in people:
        side = np.linalg.norm(quad[3] - quad[0])
        distances = [np.linalg.norm(face.quad.mean(0) - quad.mean(0)) for face in faces]
        assert min(distances) < side / 6
        assert faces[int(np.argmin(distances))].side == pytest.approx(side, rel=0.25)


def test_a_pattern_on_clothes_is_no_face():
    # dlib scores the astronaut's patch 0.12.
    photo = photograph("astronaut.png")
    lenient = detection.FaceDetector(minimum_score=0.0)
    assert len(lenient.find_faces(photo, 64)) == 2
    assert len(face_detector().find_faces(photo, 64)) == 1


def test_threads_find_what_one_thread_finds():
    names = ["astronaut.png", "pair-1.jpg"] * 2
    detector = face_detector()

    def quads(name: str) -> list[list[float]]:
        faces = detector.find_faces(photograph(name).resize((300, 300)), 75)
        return [face.quad.ravel().tolist() for face in faces]

    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(quads, names)] == [*map(quads, names)]


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (90_000, 1), (1, 5000), (79, 79)])
def test_pictures_too_small_or_thin_for_a_face_hold_none(size):
    for only_largest in (False, True):
        assert (
            face_detector().find_faces(Image.new("RGB", size), 8, only_largest=only_largest) == []
        )


@given(st.integers(1, 12_000), st.integers(1, 12_000), st.floats(0, 5000), st.floats(0, 5000))
def test_the_search_is_as_fine_as_the_smallest_wanted_face_needs(width, height, one, other):
    small, large = sorted((one, other))
    finest, coarser = finest_level(width, height, small), finest_level(width, height, large)
    assert 0 <= finest <= coarser
    # Nothing of at least the level's own limit is searched finer than 4000 pixels.
    if max(width, height) <= 1900 and small > smallest_side(0):
        assert smallest_side(finest) <= small * (1 + 1e-9)


def test_a_missing_model_says_what_to_install(monkeypatch):
    monkeypatch.setattr(detection, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install face-recognition-models"):
        detection.landmark_model()
