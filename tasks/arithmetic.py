"""The arithmetic that is fastest on a device: measured once, and kept in the workspace.

Workers on devices of one name edit in one arithmetic, so that they give the same images.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from styleclip_ops.arithmetic import PLAIN, Arithmetic, Synthesizer, read_arithmetic, synthesizer
from styleclip_ops.generator import Generator
from styleclip_ops.pictures import to_levels
from styleclip_ops.style_statistics import sample_style_codes
from tasks.models import Models, describe_device, has_bfloat16_units, settle
from tasks.places import CALIBRATIONS
from tasks.store.folders import Folder, sha256

AUTO = "auto"
# Another arithmetic must be so much faster in three of four pairs of runs, so that chance chooses
# seldom, and may change a picture so much, on average.
_GAIN, _LEVELS = 1.1, 0.5
# Pixels to be rendered from which on it pays to try others, and to let torch compile, which takes
# a minute: on processors 512 and 2,048 images of 256 px, on accelerators 512 and 8,192 of 1,024 px.
_PROCESSOR, _ACCELERATOR = (2**25, 2**27), (2**29, 2**33)
# Pairs of runs, and seconds after which these are no more than must be.
_FEWEST, _MOST, _LONG_ENOUGH = 3, 9, 3.0


@dataclass(frozen=True)
class ArithmeticTrial:
    """What an arithmetic gave.

    Attributes:
        arithmetic: Its text.
        seconds: Median of a batch; None where it failed.
        levels: Mean difference of a pixel from float32, in levels of 8 bits.
        gain: How many times faster than the best before it, at least, in three of four pairs.
        error: Why it failed.
    """

    arithmetic: str
    seconds: float | None = None
    levels: float | None = None
    gain: float = 1.0
    error: str = ""


def name_arithmetic(asked: str) -> str:
    """Return what a user asks for in its usual form.

    Raises:
        ConfigError: It names no arithmetic.
    """
    return asked if asked == AUTO else str(read_arithmetic(asked))


def choose_arithmetic(
    asked: str, workspace: str, networks: Models, rows: Callable[[], int]
) -> Arithmetic:
    """Return the arithmetic that edits are rendered in.

    Args:
        asked: Its text; or `auto`, for what was measured to be fastest with this generator on this
            device. Processors without units for bfloat16 take float32 and measure nothing, and so
            does every device where there is little to render.
        workspace: Where the choice is kept.
        networks: With the generator.
        rows: Asked for how many images are to be rendered in all.

    Raises:
        ConfigError: The text names none.
    """
    if asked != AUTO:
        return read_arithmetic(asked)
    if not has_bfloat16_units(networks.device):
        return PLAIN
    pixels = rows() * networks.generator.resolution**2
    others, compiled = _PROCESSOR if networks.device.type == "cpu" else _ACCELERATOR
    return _calibrated(workspace, networks, pixels >= compiled) if pixels >= others else PLAIN


@lru_cache(maxsize=16)
def _calibrated(workspace: str, networks: Models, compiles: bool) -> Arithmetic:
    """Read what was chosen for such a device, or measure and keep it."""
    facts = {
        "device": describe_device(networks.device),
        "generator": networks.fingerprint("generator"),
        "lot": networks.lot,
        "compiles": compiles,
    }
    folder = Folder(workspace) / CALIBRATIONS
    name = f"{sha256(json.dumps(facts).encode())[:16]}.json"
    if kept := _kept(folder, name):
        return kept
    trials = try_arithmetics(networks.generator, networks.lot, compiles)
    chosen = fastest(trials)
    values = facts | {"chosen": str(chosen), "trials": [asdict(trial) for trial in trials]}
    content = json.dumps(values, indent=2).encode()
    try:
        folder.create(name, content)
    except FileExistsError:
        # Where another worker was faster, both take its choice.
        if kept := _kept(folder, name):
            return kept
        folder.write(name, content)
    return chosen


def _kept(folder: Folder, name: str) -> Arithmetic | None:
    """The choice of before; None where there is none, or what is there is damaged."""
    try:
        return read_arithmetic(json.loads(folder.read(name))["chosen"])
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None


def try_arithmetics(generator: Generator, lot: int, compiles: bool) -> list[ArithmeticTrial]:
    """Try float32, then one change after the other, on top of what helped so far.

    Args:
        generator: Of which style codes are drawn.
        lot: How many images are computed at a time.
        compiles: Whether to try torch.compile too.

    Returns:
        One for each, float32 first.
    """
    (s,) = sample_style_codes(generator, lot, seed=0)
    with torch.no_grad():
        wanted = to_levels(generator.synthesize(s)).float()
        plain = statistics.median(_seconds(generator.synthesize, s) for _ in range(_FEWEST))
    trials = [ArithmeticTrial(str(PLAIN), plain, 0.0)]
    changes: list[dict[str, Any]] = [{"precision": "bfloat16"}, {"channels_last": True}]
    for change in [*changes, {"compiled": True}] if compiles else changes:
        best = fastest(trials)
        trials.append(_try(replace(best, **change), best, generator, s, wanted))
    return trials


def fastest(trials: list[ArithmeticTrial]) -> Arithmetic:
    """Return the fastest arithmetic that keeps the picture; each was tried against it so far."""
    best = trials[0]
    for trial in trials[1:]:
        if trial.gain >= _GAIN and trial.levels is not None and trial.levels <= _LEVELS:
            best = trial
    return read_arithmetic(best.arithmetic)


def _try(
    arithmetic: Arithmetic, best: Arithmetic, generator: Generator, s: Tensor, wanted: Tensor
) -> ArithmeticTrial:
    try:
        other, before = synthesizer(generator, arithmetic), synthesizer(generator, best)
        levels = float((to_levels(other(s)) - wanted).abs().mean())
        with torch.no_grad():
            pairs = [*_paired_seconds(before, other, s)]
    except Exception as error:
        # A compiler that is missing, or memory that does not suffice: what was best does without.
        return ArithmeticTrial(str(arithmetic), error=f"{type(error).__name__}: {error}"[:200])
    gains = sorted(old / new for old, new in pairs)
    seconds = statistics.median(new for _, new in pairs)
    return ArithmeticTrial(str(arithmetic), seconds, levels, gains[len(gains) // 4])


def _paired_seconds(
    before: Synthesizer, other: Synthesizer, s: Tensor
) -> Iterator[tuple[float, float]]:
    """Time two in turn: a machine that others use is slow for both, or for a few pairs."""
    _seconds(before, s)
    began, count = time.perf_counter(), 0
    while count < _FEWEST or (count < _MOST and time.perf_counter() - began < _LONG_ENOUGH):
        yield _seconds(before, s), _seconds(other, s)
        count += 1


def _seconds(synthesize: Synthesizer, s: Tensor) -> float:
    settle(s.device)
    began = time.perf_counter()
    synthesize(s)
    settle(s.device)
    return time.perf_counter() - began
