"""`make bench`: one table of ratios, and the same as JSON."""

import dataclasses
import json
import platform
from pathlib import Path

import torch

from benchmarks import alignment, arithmetic, edits, generator, mapper, optimization, relevance
from benchmarks.paired import Ratio

RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    """Run every benchmark and print the table."""
    ratios: list[Ratio] = []
    print(
        f"{_processor()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; times faster, median (smallest to largest) of paired runs"
    )
    for benchmark in (
        generator.run,
        arithmetic.run,
        relevance.run,
        optimization.run,
        mapper.run,
        alignment.run,
        edits.run,
    ):
        for ratio in benchmark():
            ratios.append(ratio)
            print(f"  {ratio.name:<66} {ratio.median:6.2f} ({ratio.low:.2f} to {ratio.high:.2f})")
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
