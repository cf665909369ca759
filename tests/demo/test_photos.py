"""The demo photographs: what SOURCES.md and people.json say of them is so."""

import hashlib
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image, UnidentifiedImageError

from demo.portraits.attributes import RATES
from demo.portraits.detection import FaceFinder, contains, frame_offset
from demo.train.scenes import PHOTOS, photographs

PEOPLE = json.loads((PHOTOS / "people.json").read_text())


def pixels(name):
    picture = np.asarray(Image.open(PHOTOS / name).convert("RGB"), np.float32)
    return torch.from_numpy(picture).permute(2, 0, 1) / 127.5 - 1


@pytest.fixture(scope="module")
def finder():
    return FaceFinder(0.15)


def test_people_are_those_of_the_scenes():
    assert [*PEOPLE] == [photograph.name for photograph in photographs()]
    for photograph in photographs():
        portraits = [placement.portrait for placement in photograph.scene.placements]
        told = [{name: person[name] for name in RATES} for person in PEOPLE[photograph.name]]
        assert told == [{name: getattr(p, name) for name in RATES} for p in portraits]


@pytest.mark.parametrize("name", PEOPLE)
def test_dlib_finds_everybody_where_people_json_says(finder, name):
    faces = finder.landmarks(pixels(name))
    quads = [torch.tensor(person["quad"]) for person in PEOPLE[name]]
    assert len(faces) == len(quads)
    for quad in quads:
        own = [points for points in faces if contains(quad, points)]
        assert len(own) == 1
        assert abs(frame_offset(own[0], quad).scale - 1) < 0.2


@pytest.mark.parametrize("name", ["astronaut.png", "grace_hopper.jpg"])
def test_real_photographs_are_the_recorded_ones_with_one_face(finder, name):
    digest = hashlib.sha256((PHOTOS / name).read_bytes()).hexdigest()
    row = re.search(rf"{name} .*sha256 (\w+)", (PHOTOS / "SOURCES.md").read_text())
    assert row is not None
    assert digest.startswith(row.group(1))
    assert len(finder.landmarks(pixels(name))) == 1


def test_one_file_is_no_picture():
    with pytest.raises(UnidentifiedImageError):
        Image.open(PHOTOS / "not-a-picture.jpg")


def test_folder_is_small_and_complete():
    files = [path for path in PHOTOS.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3e6
    others = {"SOURCES.md", "people.json", "astronaut.png", "grace_hopper.jpg", "not-a-picture.jpg"}
    assert {path.name for path in files} == {*PEOPLE} | others
