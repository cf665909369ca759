"""What edits need beside networks and latents: directions, and mappers."""

from flows.mappers import train_all
from flows.relevance import build_relevance
from flows.share import step
from tasks.directions import DirectionStore, RelevanceConfig, direction_folder
from tasks.manifest_files import Survey
from tasks.models import open_models
from tasks.storage import Folder


def make_assets(
    workspace: str,
    needs: Survey,
    models: str,
    relevance: RelevanceConfig,
    device: str,
    workers: int = 1,
    engine: str = "threads",
) -> tuple[DirectionStore | None, list[str]]:
    """Make what edits need and the workspace lacks.

    Args:
        workspace: URL of the workspace.
        needs: Of the edits.
        models: URL of the bundle.
        relevance: How to measure directions.
        device: See `tasks.models.open_models`.
        workers: Shards at a time.
        engine: What carries them, see `flows.engines`.

    Returns:
        The directions, None where no edit needs them, and the URLs of all mappers.
    """
    directions = None
    if "global" in needs.methods:
        step(build_relevance)(
            workspace,
            models=models,
            relevance=relevance,
            device=device,
            workers=workers,
            engine=engine,
        )
        networks = open_models(models, device)
        directions = DirectionStore(direction_folder(Folder(workspace), networks, relevance))
    trained = train_all(workspace, needs.mappers, models, device, checkpoint_steps=200)
    return directions, [*needs.mapper_uris, *trained]
