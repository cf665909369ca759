"""What edits need beside networks and latents: directions, and mappers."""

from flows.mappers import train_all
from flows.progress import say
from flows.relevance import build_relevance
from flows.steps import step
from tasks.directions import (
    DirectionStore,
    RelevanceConfig,
    choose_relevance,
    direction_folder,
    relevance_options,
)
from tasks.models import open_models
from tasks.store.folders import Folder
from tasks.surveys import Survey


def settle_relevance(
    workspace: str,
    models: str,
    device: str,
    relevance: RelevanceConfig | None,
    begun: RelevanceConfig | None = None,
) -> RelevanceConfig:
    """Choose how directions are measured, and say so where it is not as usual and nobody asked.

    Args:
        workspace: URL of the workspace.
        models: URL of the bundle.
        device: See `tasks.models.open_models`.
        relevance: What is asked for; None for what is there.
        begun: How those of the run were measured, if it has some.
    """
    networks = open_models(models, device)
    chosen = choose_relevance(Folder(workspace), networks, relevance, begun)
    store = DirectionStore(direction_folder(Folder(workspace), networks, chosen))
    if chosen == begun and not store.exists:
        say(
            f"relevance: {store.folder.url}, which the run was begun with, is not there; it is "
            f"measured again, with {relevance_options(chosen)}"
        )
    elif relevance is None and chosen != RelevanceConfig():
        say(
            f"relevance: takes the directions that {workspace} has, measured with "
            f"{relevance_options(chosen)}; `styleclip relevance {workspace}` measures as usual"
        )
    return chosen


def make_assets(
    workspace: str,
    needs: Survey,
    models: str,
    relevance: RelevanceConfig | None,
    device: str,
    workers: int = 1,
    engine: str = "threads",
) -> tuple[DirectionStore | None, list[str]]:
    """Make what edits need and the workspace lacks.

    Args:
        workspace: URL of the workspace.
        needs: Of the edits.
        models: URL of the bundle.
        relevance: How to measure directions; none are made where None.
        device: See `tasks.models.open_models`.
        workers: Shards at a time.
        engine: What carries them, see `flows.engines`.

    Returns:
        The directions, None where there are none, and the URLs of all mappers.
    """
    directions, networks = None, open_models(models, device)
    if relevance is not None:
        step(build_relevance)(
            workspace,
            models=models,
            relevance=relevance,
            device=device,
            workers=workers,
            engine=engine,
        )
        directions = DirectionStore(direction_folder(Folder(workspace), networks, relevance))
    trained = train_all(workspace, needs.mappers, models, device)
    return directions, [*needs.mapper_uris, *trained]
