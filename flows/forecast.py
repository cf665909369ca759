"""`--dry-run`: what a run will take, and nothing done."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from flows.progress import console, say
from flows.summary import Summary
from tasks.forecast import Forecast, StageForecast
from tasks.rehearsal import Rehearsal
from tasks.stopwatch import describe_duration

# About how many seconds the rehearsal of a stage takes.
SAMPLE_SECONDS = 3.0


@dataclass(frozen=True)
class DryRun(Summary):
    """The end of a dry run.

    Attributes:
        all_seconds: That the run will take.
        all_bytes: That it will write.
        price: Of its time.
        price_per_hour: Of the machine.
    """

    all_seconds: float = 0.0
    all_bytes: int = 0
    price: float = 0.0
    price_per_hour: float = 0.0

    @property
    def line(self) -> str:
        """One line for people."""
        hourly, shards, rows = self.price_per_hour, self.counts["shards"], self.counts["rows"]
        price = f", {self.price:,.2f} at a price of {hourly:g} an hour" if self.price else ""
        return (
            f"{self.stage}: {rows:,} row{'s' * (rows != 1)}, {self.counts['done']:,} done, "
            f"{shards:,} shard{'s' * (shards != 1)} of edits to do: all stages take about "
            f"{describe_duration(self.all_seconds)}, {self.all_bytes / 1e6:,.1f} MB{price}; wrote "
            "nothing"
        )


def estimate(
    workspace: str,
    models: str,
    device: str,
    price_per_hour: float,
    stages: Callable[[Forecast], Iterator[StageForecast]],
) -> DryRun:
    """Time samples of the stages in a temporary folder, and say what all will take.

    Args:
        workspace: Folder or URL that holds all data.
        models: Bundle of weights.
        device: See `tasks.models.open_models`.
        price_per_hour: Of this machine.
        stages: Estimates them one after the other.
    """
    began, found = time.monotonic(), list[StageForecast]()
    say("dry run: times samples of each stage, which takes up to some minutes on processors")
    with tempfile.TemporaryDirectory() as place, console.status("timing samples") as status:
        forecast = Forecast(
            workspace, models, device, Rehearsal(Path(place), models, device, SAMPLE_SECONDS)
        )
        found.append(forecast.load())
        for stage in stages(forecast):
            found.append(stage)
            status.update(f"timing samples: {stage.stage} is done")
    seconds, size = sum(s.seconds for s in found), sum(s.bytes for s in found)
    console.print(_table(found))
    edits = next(stage for stage in found if stage.stage == "edit")
    facts = {"stages": [asdict(stage) for stage in found]}
    counts = {"rows": edits.units, "done": edits.done, "shards": edits.shards}
    took, price = time.monotonic() - began, price_per_hour * seconds / 3600
    return DryRun(
        "dry run",
        "nothing",
        counts,
        took,
        facts,
        all_seconds=seconds,
        all_bytes=size,
        price=price,
        price_per_hour=price_per_hour,
    )


def _table(stages: list[StageForecast]) -> Table:
    table = Table("stage", "items", "done", "shards to do", "time", "MB")
    for stage in stages:
        numbers = (f"{n:,}" for n in (stage.units, stage.done, stage.shards))
        table.add_row(
            stage.stage, *numbers, describe_duration(stage.seconds), f"{stage.bytes / 1e6:,.1f}"
        )
    return table
