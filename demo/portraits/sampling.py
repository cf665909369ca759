"""Portraits from normal vectors, from seeds, and as parameter vectors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from demo.portraits.attributes import (
    GENDERED,
    LEANINGS,
    RATES,
    Identity,
    Portrait,
    value_names,
)

IDENTITY_VALUES = value_names(Identity)
PORTRAIT_VALUES = value_names(Portrait)

# One normal coordinate each, in this order.
NORMAL_NAMES: tuple[str, ...] = (*RATES, *IDENTITY_VALUES, *PORTRAIT_VALUES)
NUM_NORMALS = len(NORMAL_NAMES)


def _vector_slices() -> dict[str, slice]:
    slices, start = {}, 0
    for name in NORMAL_NAMES:
        width = len(RATES.get(name, "1"))
        slices[name] = slice(start, start + width)
        start += width
    return slices


PARAMETER_SLICES = _vector_slices()
NUM_PARAMETERS = PARAMETER_SLICES[NORMAL_NAMES[-1]].stop


def portraits_from_normal(z: Tensor) -> list[Portrait]:
    """Map normal vectors to portraits.

    Each discrete attribute is a threshold of one coordinate (two, mixed to a correlation, for those
    of LEANINGS) and each continuous value is erf(z / sqrt 2), uniform in [-1, 1].

    Args:
        z: [N, NUM_NORMALS] standard normal, columns in the order of NORMAL_NAMES.

    Raises:
        ValueError: if `z` does not have NUM_NORMALS columns.
    """
    if z.ndim != 2 or z.shape[1] != NUM_NORMALS:
        raise ValueError(f"z: got shape {tuple(z.shape)}, expected [N, {NUM_NORMALS}]")
    z = z.detach().to("cpu", torch.float64)
    column = {name: z[:, i].contiguous() for i, name in enumerate(NORMAL_NAMES)}
    for name, (other, correlation) in LEANINGS.items():
        alone = (1 - correlation**2) ** 0.5
        column[name] = alone * column[name] + correlation * column[other]
    choices = {name: _choose(name, column[name]) for name in RATES}
    values = torch.erf(z[:, len(RATES) :] / 2**0.5).tolist()
    return [_portrait({name: choices[name][i] for name in RATES}, values[i]) for i in range(len(z))]


def sample_portraits(num: int, seed: int, start: int = 0) -> list[Portrait]:
    """Return portraits `start` .. `start + num - 1` of the endless series that `seed` names."""
    return portraits_from_normal(sample_normals(num, seed, start))


def sample_normals(num: int, seed: int, start: int = 0) -> Tensor:
    """Return the normal vectors [num, NUM_NORMALS] float32 behind `sample_portraits`."""
    rows = [
        np.random.Generator(np.random.Philox(key=[seed, i])).standard_normal(NUM_NORMALS)
        for i in range(start, start + num)
    ]
    return torch.from_numpy(np.array(rows, dtype=np.float32).reshape(num, NUM_NORMALS))


def parameter_vector(portraits: Sequence[Portrait]) -> Tensor:
    """Encode portraits as numbers.

    Returns:
        [N, NUM_PARAMETERS] float32: one-hot attributes, and values scaled to unit variance, at the
        columns named by PARAMETER_SLICES.
    """
    vector = torch.zeros(len(portraits), NUM_PARAMETERS)
    for name, columns in PARAMETER_SLICES.items():
        if name in RATES:
            options = [*RATES[name]]
            chosen = torch.tensor([options.index(getattr(p, name)) for p in portraits])
            vector[:, columns] = torch.nn.functional.one_hot(chosen.long(), len(options)).float()
        else:
            vector[:, columns.start] = value_column(portraits, name) * 3**0.5
    return vector


def value_column(portraits: Sequence[Portrait], name: str) -> Tensor:
    """Return the continuous value `name` of identity or portrait, [N] float32 in [-1, 1]."""
    if name in IDENTITY_VALUES:
        return torch.tensor([getattr(p.identity, name) for p in portraits])
    return torch.tensor([getattr(p, name) for p in portraits])


def _choose(name: str, z: Tensor) -> list[str]:
    options = [*RATES[name]]
    shares = torch.tensor([RATES[name][o] for o in options], dtype=torch.float64)
    edges = torch.special.ndtri(shares.cumsum(0)[:-1])
    return [options[i] for i in torch.bucketize(z, edges).tolist()]


def _portrait(choices: dict[str, Any], values: Sequence[float]) -> Portrait:
    for name, gender in GENDERED.items():
        if choices["gender"] != gender:
            choices[name] = "none"
    count = len(IDENTITY_VALUES)
    identity = Identity(**dict(zip(IDENTITY_VALUES, values[:count], strict=True)))
    own = dict(zip(PORTRAIT_VALUES, values[count:], strict=True))
    return Portrait(identity=identity, **(choices | own))
