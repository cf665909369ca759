"""`make bench`: one table of ratios, and the same as JSON.

    python -m benchmarks --device cuda --only generator arithmetic

measures on one device, by default on an accelerator where there is one, and only some; alignment
runs on processors always. Nothing but a whole table is written.
"""

import argparse
import dataclasses
import json
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks import alignment, arithmetic, edits, generator, mapper, optimization, relevance
from benchmarks.paired import Ratio
from tasks.models import describe_device, named_device

BENCHMARKS: dict[str, Callable[[str], Iterator[Ratio]]] = {
    "generator": generator.run,
    "arithmetic": arithmetic.run,
    "relevance": relevance.run,
    "optimization": optimization.run,
    "mapper": mapper.run,
    "alignment": lambda _: alignment.run(),
    "edits": edits.run,
}
RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    """Run benchmarks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=[*BENCHMARKS])
    arguments = parser.parse_args()
    device = named_device(arguments.device)
    ratios: list[Ratio] = []
    print(
        f"{_processor()}, {torch.get_num_threads()} threads; {describe_device(device)}; "
        "times faster, median (smallest to largest) of paired runs",
        flush=True,
    )
    for name in arguments.only:
        for ratio in BENCHMARKS[name](str(device)):
            ratios.append(ratio)
            figures = f"{ratio.median:6.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
            print(f"  {ratio.name:<66} {figures}", flush=True)
    if len(arguments.only) < len(BENCHMARKS):
        return
    RESULTS.write_text(json.dumps([dataclasses.asdict(ratio) for ratio in ratios], indent=2) + "\n")
    print(f"wrote {RESULTS}")


def _processor() -> str:
    """The processor's name, which Linux tells in a file only."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
