r"""Train the demo models. The same command continues what an earlier one began.

python -m demo.train
    everything, each stage to its end
python -m demo.train all:14400 --from-models
    everything in four hours; synthesis, CLIP and encoder begin with the weights in demo/models
python -m demo.train data:720 generator:7200
    two stages, with at most so many seconds each
python -m demo.train data:90 synthesis:270 finish:90 mapping --num 100000 --batch 256
    everything in under ten minutes on a machine with a GPU

Ctrl-C or SIGTERM ends after the step in hand, with a checkpoint.
"""

import argparse
import os
import signal
import time
from pathlib import Path

import torch

from demo.train.clock import Deadline
from demo.train.descent import Schedule
from demo.train.device import best_device
from demo.train.loop import Rhythm
from demo.train.stages import CHANNELS, GROUPS, STAGES, Plan, select_stages
from demo.train.synthesis import SynthesisConfig

HERE = Path(__file__).parent


def main() -> None:
    """Run the stages that the arguments name."""
    given = _parse()
    torch.set_num_threads(given.threads)
    whole = Deadline()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: whole.stop())
    plan = _plan(given)
    for name, seconds in select_stages(given.stages):
        if not whole.stopped:
            STAGES[name](plan, whole.within(seconds), _say)


def _say(line: str) -> None:
    print(time.strftime("%H:%M:%S"), line, flush=True)


def _plan(given: argparse.Namespace) -> Plan:
    channels = given.channels or CHANNELS[given.size]
    return Plan(
        runs=given.runs,
        models=given.models,
        device=best_device(),
        size=given.size,
        num=given.num,
        held_out=given.held_out,
        workers=given.workers,
        from_models=given.from_models,
        synthesis=SynthesisConfig(
            tuple(channels), given.batch, Schedule(given.learning_rate), given.seed
        ),
        rhythm=Rhythm(given.save, given.say),
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m demo.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "stages",
        nargs="*",
        default=["all"],
        help=f"NAME or NAME:SECONDS of {[*STAGES]}, or a group of {[*GROUPS]}",
    )
    add("--size", type=int, choices=[*CHANNELS], default=64, help="side of the portraits, pixels")
    add("--num", type=int, default=48_000, help="portraits to learn from")
    add("--held-out", type=int, default=512, help="portraits to judge by")
    add("--channels", type=int, nargs="+", help="widths at 4, 8, ... px")
    add("--batch", type=int, default=32, help="pictures in a step")
    add("--learning-rate", type=float, default=1e-2)
    add("--seed", type=int, default=0)
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes that render")
    add("--threads", type=int, default=os.cpu_count() or 1, help="threads that train")
    add("--runs", type=Path, default=HERE / "runs", help="folder of all state")
    add("--models", type=Path, default=HERE.parent / "models", help="folder for finished weights")
    add("--from-models", action="store_true", help="begin with the weights in --models")
    add("--save", type=float, default=60.0, help="seconds between checkpoints")
    add("--say", type=float, default=10.0, help="seconds between lines of progress")
    return parser.parse_args()


if __name__ == "__main__":
    main()
