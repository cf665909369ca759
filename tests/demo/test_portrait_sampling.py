"""The typed model, the normal-vector map and the parameter vector."""

from dataclasses import replace

import pytest
import torch

from demo.portraits.attributes import GENDERED, RATES, Identity, Portrait
from demo.portraits.sampling import (
    NORMAL_NAMES,
    NUM_NORMALS,
    NUM_PARAMETERS,
    PARAMETER_SLICES,
    parameter_vector,
    portraits_from_normal,
    sample_portraits,
)


def test_portrait_depends_on_seed_and_index_only():
    portraits = sample_portraits(20, seed=3)
    assert portraits[:7] == sample_portraits(7, seed=3)
    assert portraits[12:15] == sample_portraits(3, seed=3, start=12)
    assert portraits[0] != sample_portraits(1, seed=4)[0]


def test_normal_map_reproduces_the_rates():
    z = torch.randn(8000, NUM_NORMALS, generator=torch.Generator().manual_seed(0))
    portraits = portraits_from_normal(z)
    for name, rates in RATES.items():
        able = [p for p in portraits if GENDERED.get(name, p.gender) == p.gender]
        for option, rate in rates.items():
            share = sum(getattr(p, name) == option for p in able) / len(able)
            assert share == pytest.approx(rate, abs=0.025), (name, option)


@pytest.mark.parametrize("name", ["hair_style", "skin_tone", "yaw"])
def test_each_parameter_is_monotone_in_its_coordinate(name):
    z = torch.zeros(41, NUM_NORMALS)
    z[:, NORMAL_NAMES.index(name)] = torch.linspace(-3, 3, 41)
    columns = parameter_vector(portraits_from_normal(z))[:, PARAMETER_SLICES[name]]
    place = columns.argmax(1) if name in RATES else columns[:, 0]
    assert (place.diff() >= 0).all()
    assert place[0] < place[-1]


def test_parameter_vector_is_one_hot_and_standardised():
    vector = parameter_vector(sample_portraits(2000, seed=0))
    assert vector.shape == (2000, NUM_PARAMETERS)
    assert vector.dtype == torch.float32
    for name, columns in PARAMETER_SLICES.items():
        part = vector[:, columns]
        if name in RATES:
            assert (part.sum(1) == 1).all()
        else:
            assert part.std().item() == pytest.approx(1, abs=0.06)


def test_identity_survives_a_change_of_attributes():
    portrait = Portrait(identity=Identity(face_width=0.4), gender="man")
    other = replace(portrait, beard="full", hair_color="red")
    assert other.identity == portrait.identity
    changed = (parameter_vector([portrait]) != parameter_vector([other]))[0]
    assert changed[PARAMETER_SLICES["beard"]].any()
    assert not changed[PARAMETER_SLICES["face_width"]].any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hat": "crown"}, "hat: got 'crown', expected one of"),
        ({"yaw": 1.5}, r"yaw: got 1.5, expected a number in \[-1, 1\]"),
        ({"gender": "woman", "beard": "full"}, "beard: got 'full', expected 'none' for a woman"),
    ],
)
def test_impossible_portraits_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Portrait(**fields)


def test_normal_vectors_of_wrong_width_are_refused():
    with pytest.raises(ValueError, match="z: got shape"):
        portraits_from_normal(torch.zeros(2, 3))
