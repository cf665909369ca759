"""Mappers: one trained network for a prompt."""

import time
from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from flows.guards import guarded_flow
from flows.options import MachineInt, MachineStr
from flows.progress import progress_bar
from flows.shards import GPU_TAG, guarded_task, in_own_order
from flows.steps import has_server
from flows.store_check import check_store
from flows.summary import Summary
from tasks.bundles import DEMO_MODELS
from tasks.manifest_files import require_texts
from tasks.mappers import CHECKPOINT_STEPS, MapperConfig, train_prompt_mapper
from tasks.places import MAPPERS
from tasks.store.folders import Folder

_DEFAULT = MapperConfig()
_TRAIN = guarded_task(train_prompt_mapper, "train-mapper", "mapper-{target_prompt}", tags=[GPU_TAG])


@guarded_flow("train-mappers")
def train_mappers(
    workspace: str,
    target: list[str],
    *,
    models: str = DEMO_MODELS,
    mapper: Annotated[MapperConfig, Parameter(name="*", negative_bool="no-")] = _DEFAULT,
    device: MachineStr = "auto",
    checkpoint_steps: MachineInt = CHECKPOINT_STEPS,
) -> Summary:
    """Train a mapper for each prompt that has none; a stopped training continues.

    The defaults suit the published FFHQ generator. That of the demo takes --learning-rate 200,
    --id-lambda 0.4, --l2-lambda 0.1, --steps 100, --batch-size 4. docs/choosing.md says more.

    Args:
        workspace: Folder or URL that holds all data.
        target: Target prompts, such as "a face with purple hair".
        models: Bundle of weights: the URL of its JSON file, or `demo`.
        mapper: How to train.
        device: auto, cpu, cuda, cuda:1, mps.
        checkpoint_steps: Steps between checkpoints.
    """
    require_texts(target)
    began = time.monotonic()
    check_store(workspace)
    wanted = [(prompt, mapper) for prompt in target]
    urls = train_all(workspace, wanted, models, device, checkpoint_steps)
    wrote, counts = Folder(workspace).url_of(MAPPERS), {"ready": len(urls)}
    return Summary("mappers", wrote, counts, time.monotonic() - began, {"mappers": urls})


def train_all(
    workspace: str,
    wanted: Sequence[tuple[str, MapperConfig]],
    models: str,
    device: str,
    checkpoint_steps: int = CHECKPOINT_STEPS,
) -> list[str]:
    """Train mappers, each a prompt and how, one after the other, as tasks of the flow at hand.

    Returns:
        Their URLs.
    """
    urls = dict[tuple[str, MapperConfig], str]()
    for number, (prompt, config) in enumerate(in_own_order(wanted), 1):
        told = f"mapper {number} of {len(wanted)}" if len(wanted) > 1 else "mapper"
        with progress_bar(told, config.steps) as bar:
            train = _TRAIN if has_server() else _TRAIN.fn
            urls[prompt, config] = train(
                workspace=workspace,
                models=models,
                device=device,
                target_prompt=prompt,
                config=config,
                checkpoint_steps=checkpoint_steps,
                on_progress=bar.advance,
            )
    return [urls[one] for one in wanted]
