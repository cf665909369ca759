"""Hostile input: no crash, no hang, no code run, no more memory than a bound.

Photographs go through planning and alignment, tables through the doors of manifests, prompt tables
and listings, checkpoints through all loaders, Zarr stores through their readers. Each item must be
accepted, get a status, or be refused by an error of the product. Items made by hand come first,
then good ones with drawn damage; the same seed gives the same items.

Items are read in processes of their own. One that takes too long, dies, or needs too much memory is
a failure; so is every other kind of error. Code that is run would leave a file: a canary. The
program shows first that the canary works.
"""

import argparse
import json
import os
import pickle
import queue
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks.endurance.hostile.items import Family

COUNTS = {"images": 2_000, "manifests": 1_000, "checkpoints": 500, "stores": 200}
_BATCH = 250
# Of one item: many times what the slowest takes, since other work may share the machine.
_SECONDS, _SECONDS_TO_START = 180.0, 600.0
# Of one item, beyond what the process had before; a photograph of 100 megapixels takes most.
_MEGABYTES = 1_500
# Keeps the machine alive when an item succeeds as a bomb.
_ADDRESS_SPACE = 16 * 2**30
_SHOWN_FAILURES = 30

# What nobody may do while a file is read.
_FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn")


@dataclass
class Tally:
    """What became of the items of a family."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    largest: tuple[float, str] = (0.0, "")
    peak: float = 0.0


def main() -> None:
    """Fuzz all families and exit with 1 on any failure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for family, count in COUNTS.items():
        parser.add_argument(f"--{family}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="index of the first item")
    parser.add_argument("--work", nargs=3, metavar=("FAMILY", "FOLDER", "END"))
    arguments = parser.parse_args()
    if arguments.work:
        family, folder, end = arguments.work
        work(family, Path(folder), arguments.seed, arguments.first, int(end))
        return
    counts = {family: getattr(arguments, family) for family in COUNTS}
    passed, failed = fuzz(counts, arguments.seed, arguments.first)
    print(f"fuzz: {passed} passed, {failed} failed")
    sys.exit(failed > 0)


def fuzz(counts: dict[str, int], seed: int, first: int = 0) -> tuple[int, int]:
    """Fuzz families, print what became of their items, and return passes and failures."""
    passed = failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        canary = folder / "canary"
        canary.mkdir()
        _show_that_the_canary_works(canary)
        for family, count in counts.items():
            if not count:
                continue
            tally = _run(family, folder, seed, first, first + count)
            tally.failures += [f"{family}: code was run: {path}" for path in canary.iterdir()]
            _report(family, tally)
            failed += len(tally.failures)
            passed += count - len(tally.failures)
    return passed, failed


def _show_that_the_canary_works(canary: Path) -> None:
    from benchmarks.endurance.hostile.checkpoints import Malice

    code = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"
    payload = pickle.dumps(Malice(canary / "control"))
    subprocess.run([sys.executable, "-c", code], input=payload, check=True)  # noqa: S603
    (canary / "control").unlink()
    print("canary: a payload that is run leaves its file")


def _run(family: str, folder: Path, seed: int, first: int, end: int) -> Tally:
    tally = Tally()
    while first < end:
        last = min(first + _BATCH, end)
        command = [sys.executable, "-m", "benchmarks.endurance.fuzz", "--seed", str(seed)]
        command += ["--first", str(first), "--work", family, str(folder), str(last)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603
            assert process.stdout is not None
            waiting: queue.Queue[dict[str, Any] | None] = queue.Queue()
            threading.Thread(target=_pass_on, args=(process.stdout, waiting), daemon=True).start()
            first = _watch(process, waiting, family, first, tally)
    return tally


def _pass_on(lines: IO[bytes], waiting: "queue.Queue[dict[str, Any] | None]") -> None:
    for line in lines:
        waiting.put(json.loads(line))
    waiting.put(None)


def _watch(
    process: "subprocess.Popen[bytes]",
    waiting: "queue.Queue[dict[str, Any] | None]",
    family: str,
    first: int,
    tally: Tally,
) -> int:
    """Gather the results of a process, and return the index after the last item."""
    index, limit, doing = first, _SECONDS_TO_START, "start"
    while True:
        try:
            told = waiting.get(timeout=limit)
        except queue.Empty:
            process.kill()
            tally.failures.append(f"{family} {index}: no answer within {limit:g} s ({doing})")
            return index + 1
        if told is None:
            if doing == "start" and process.wait():
                raise RuntimeError(f"{family}: got no good samples, expected some; see above")
            if process.wait() == 0:
                return index
            tally.failures.append(f"{family} {index}: exit status {process.returncode} ({doing})")
            return index + 1
        if "begun" in told:
            index, doing, limit = told["begun"], told["kind"], _SECONDS
            continue
        index += 1
        # The next item has to be made first.
        limit = _SECONDS_TO_START
        _note(tally, told, f"{family} {told['index']} ({told['kind']})")


def _note(tally: Tally, told: dict[str, Any], name: str) -> None:
    tally.outcomes[told["outcome"]] += 1
    tally.slowest = max(tally.slowest, (told["seconds"], name))
    tally.largest = max(tally.largest, (told["growth"], name))
    tally.peak = max(tally.peak, told["peak"])
    if told["failure"]:
        tally.failures.append(f"{name}: {told['failure']}")
    elif told["growth"] > _MEGABYTES:
        tally.failures.append(f"{name}: took {told['growth']:.0f} MB")


def _report(family: str, tally: Tally) -> None:
    outcomes = ", ".join(f"{count} {name}" for name, count in tally.outcomes.most_common())
    print(f"{family}: {outcomes}")
    print(f"  slowest {tally.slowest[0]:.1f} s: {tally.slowest[1]}")
    print(f"  most memory {tally.largest[0]:.0f} MB: {tally.largest[1]}; peak {tally.peak:.0f} MB")
    for failure in tally.failures[:_SHOWN_FAILURES]:
        print(f"  FAILED {failure}")
    sys.stdout.flush()


def work(family: str, folder: Path, seed: int, first: int, end: int) -> None:
    """Read items, and print a line of JSON before and after each."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    own = folder / f"{family}-{first}"
    own.mkdir(exist_ok=True)
    reader = _families()[family](own, seed, folder / "canary")
    reader.judge(reader.good())
    watching = _forbid()
    for index in range(first, end):
        watching.clear()
        item = reader.item(index)
        facts: dict[str, Any] = {"index": index, "kind": item.kind, "failure": ""}
        _tell({"begun": index, "kind": item.kind})
        began, before = time.monotonic(), _reset_peak()
        try:
            facts["outcome"] = reader.judge(item)
        except reader.refusals as error:
            facts["outcome"] = type(error).__name__
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            facts["outcome"] = f"FAILED {type(error).__name__}"
            facts["failure"] = f"{type(error).__name__}: {str(error)[:300]} ({place})"
        facts |= {"seconds": time.monotonic() - began, "growth": _peak() - before, "peak": _peak()}
        if watching:
            facts["failure"] = f"{watching[0]} was called"
        _tell(facts)


def _families() -> dict[str, type[Family]]:
    from benchmarks.endurance.hostile.checkpoints import Checkpoints
    from benchmarks.endurance.hostile.images import Images
    from benchmarks.endurance.hostile.manifests import Manifests
    from benchmarks.endurance.hostile.stores import Stores

    return {
        "images": Images,
        "manifests": Manifests,
        "checkpoints": Checkpoints,
        "stores": Stores,
    }


def _forbid() -> list[str]:
    """Return a list that gets the name of every forbidden act of this process."""
    seen = list[str]()

    def watch(event: str, _: tuple[Any, ...]) -> None:
        if event in _FORBIDDEN:
            seen.append(event)

    sys.addaudithook(watch)
    return seen


def _tell(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


def _reset_peak() -> float:
    """Begin to measure the peak anew, and return the megabytes that are in use now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _peak() -> float:
    return _status("VmHWM")


def _status(name: str) -> float:
    for line in _status_lines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status: got no {name}, expected Linux; process {os.getpid()}")


def _status_lines() -> Iterator[str]:
    with Path("/proc/self/status").open(encoding="ascii") as file:
        yield from file


if __name__ == "__main__":
    main()
