"""`styleclip run --dry-run` against the run itself, stage by stage, on the demo's photographs.

    python -m benchmarks.forecast

The forecast is made before and after the run, and the mean counts, so that a machine that others
use may become slower or quicker meanwhile. Exit status 1 if the forecast of the whole is more than
a quarter off.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.align import align_photos
from flows.edit import edit_dataset
from flows.embedded_server import end_server_with_command
from flows.evaluate import evaluate_run
from flows.invert import invert_faces
from flows.mappers import train_mappers
from flows.pipeline import run_pipeline
from flows.relevance import build_relevance
from flows.summary import Summary
from tasks.directions import RelevanceConfig
from tasks.manifest_files import build_manifest, read_prompts, usable_faces
from tasks.mappers import MapperConfig

PHOTOS = Path(__file__).parents[1] / "demo" / "photos"
ALLOWED = 0.25
RELEVANCE = RelevanceConfig(num_images=2, num_statistics=2_000, mode="fast")
MAPPER, MAPPER_STEPS = "a face with red hair", 20
TABLE = f"""target_prompt,method,alpha,num_channels,options
a smiling face,global,1;2;3;4,20,
a face with glasses,global,1;2;3;4,20,
{MAPPER},mapper,0.5;1,,"{{""steps"": {MAPPER_STEPS}}}"
a sad face,optimize,1,,"{{""steps"": 8}}"
"""


def main() -> None:
    """Forecast a run, do it, and compare."""
    end_server_with_command()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", default=str(PHOTOS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        ratio = compare_forecast(arguments.photos, Path(place))
    within = abs(ratio - 1) <= ALLOWED
    print(f"forecast: {int(within)} passed, {int(not within)} failed")
    sys.exit(not within)


def compare_forecast(photos: str, place: Path) -> float:
    """Print the seconds of every stage, and return forecast / real of all of them."""
    workspace, prompts = str(place / "ws"), str(place / "prompts.csv")
    Path(prompts).write_text(TABLE, encoding="utf-8")
    before = _forecast(photos, prompts, str(place / "none"))
    real = {stage: run().seconds for stage, run in _stages(photos, prompts, workspace).items()}
    after = _forecast(photos, prompts, str(place / "none"))
    estimated = {stage: (before[stage] + after[stage]) / 2 for stage in real}
    print("seconds forecast, real, and their ratio")
    for stage, seconds in real.items():
        told = estimated[stage]
        print(f"  {stage:<10} {told:7.1f} {seconds:7.1f} {told / seconds:6.2f}")
    total, all_real = sum(estimated[stage] for stage in real), sum(real.values())
    print(f"  {'all':<10} {total:7.1f} {all_real:7.1f} {total / all_real:6.2f}")
    return total / all_real


def _forecast(photos: str, prompts: str, workspace: str) -> dict[str, float]:
    dry = run_pipeline(photos, prompts, workspace, relevance=RELEVANCE, dry_run=True)
    if Path(workspace).exists():
        raise RuntimeError(f"dry run: got {workspace}, expected nothing to be written")
    stages: Any = dry.facts["stages"]
    return {stage["stage"]: stage["seconds"] for stage in stages}


def _stages(photos: str, prompts: str, workspace: str) -> dict[str, Callable[[], Summary]]:
    mapper = MapperConfig(steps=MAPPER_STEPS)
    manifest = f"{workspace}/edits.parquet"

    def edit() -> Summary:
        build_manifest(usable_faces(workspace), read_prompts(prompts), manifest)
        return edit_dataset(workspace, manifest, relevance=RELEVANCE)

    return {
        "align": lambda: align_photos(photos, workspace),
        "invert": lambda: invert_faces(workspace),
        "relevance": lambda: build_relevance(workspace, relevance=RELEVANCE),
        "mappers": lambda: train_mappers(workspace, [MAPPER], mapper=mapper),
        "edit": edit,
        "evaluate": lambda: evaluate_run(workspace),
    }


if __name__ == "__main__":
    main()
