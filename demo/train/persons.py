"""Portraits of the same persons again and again, everything else drawn anew."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from demo.portraits.attributes import Portrait
from demo.portraits.render import render_portraits
from demo.portraits.sampling import (
    IDENTITY_VALUES,
    PARAMETER_SLICES,
    parameter_vector,
    sample_portraits,
)
from demo.train.clock import Deadline
from demo.train.progress import Report
from demo.train.shards import SeriesConfig, has_shard, open_series, write_shard

_IDENTITY = slice(
    PARAMETER_SLICES[IDENTITY_VALUES[0]].start, PARAMETER_SLICES[IDENTITY_VALUES[-1]].stop
)
NUM_IDENTITY_VALUES = _IDENTITY.stop - _IDENTITY.start


@dataclass(frozen=True)
class PersonsConfig:
    """Name a series of portraits of persons.

    Attributes:
        seed: Of the series of portraits that the persons, and all else, come from.
        persons: How many.
        portraits: Of each; a shard holds one person.
        size: Side in pixels. dlib's network needs more than the demo models do.
    """

    seed: int
    persons: int = 64
    portraits: int = 6
    size: int = 256

    @property
    def series(self) -> SeriesConfig:
        """The series as shards."""
        return SeriesConfig(self.seed, self.size, self.portraits)


def person_portraits(config: PersonsConfig, person: int) -> list[Portrait]:
    """Return the portraits of person number `person`: one identity, the rest drawn freely."""
    drawn = sample_portraits(config.portraits, config.seed, start=person * config.portraits)
    return [replace(portrait, identity=drawn[0].identity) for portrait in drawn]


def render_persons(
    folder: Path, config: PersonsConfig, deadline: Deadline, report: Report, device: torch.device
) -> None:
    """Render the persons that are missing of a series.

    Args:
        folder: Where the series is, or will be.
        config: The series.
        deadline: No person is begun after it.
        report: Told the progress.
        device: Where to render.

    Raises:
        ValueError: see `demo.train.shards.open_series`.
    """
    open_series(folder, config.series)
    for person in range(config.persons):
        if deadline.passed:
            return
        if has_shard(folder, person):
            continue
        portraits = person_portraits(config, person)
        pictures = render_portraits(portraits, config.size, device)
        write_shard(folder, person, pictures, parameter_vector(portraits))
        report(f"data {folder.name}: {person + 1} of {config.persons} persons")


def identity_values(parameters: Tensor) -> Tensor:
    """Return what makes the person, [N, NUM_IDENTITY_VALUES], of parameter vectors [N, P]."""
    return parameters[:, _IDENTITY]
