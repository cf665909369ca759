"""Where things are in a workspace, and where those of a run are now."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.store.folders import Folder, split_url

# Folders of a workspace.
FACES, CROPS, INVERSIONS, IMPORTS = "faces", "crops", "inversions", "imports"
LATENT_STORES, DIRECTION_STORES, MAPPERS, RUNS = "latents", "directions", "mappers", "runs"
CALIBRATIONS = "calibrations"
# What a workspace holds that is nobody's photograph.
OWN_FOLDERS = (
    *(FACES, CROPS, INVERSIONS, IMPORTS, LATENT_STORES, DIRECTION_STORES, MAPPERS, RUNS),
    CALIBRATIONS,
)
# Of a run.
IMAGES, REPORT = "images", "report"


class WorkspaceError(ValueError):
    """A workspace is not there, cannot be written, or lacks what a command goes on from."""


@dataclass(frozen=True)
class RunPlaces:
    """Where a run and its workspace are.

    Attributes:
        run: The run's folder.
        workspace: The workspace's folder.
        began: URL that the workspace had when the run began, which its rows still name.
        latents: Name of the latent store that the run edits.
    """

    run: Folder
    workspace: Folder
    began: str
    latents: str

    def find(self, uri: str | None) -> str | None:
        """Return where a file of the run is now; None if it is in neither of the folders."""
        if uri and uri.startswith(f"{self.began}/"):
            uri = self.workspace.url + uri.removeprefix(self.began)
        inside = uri and uri.startswith((f"{self.run.url}/", f"{self.workspace.url}/"))
        return uri if inside and ".." not in str(uri).split("/") else None


def places_of(folder: Folder, values: Mapping[str, Any]) -> RunPlaces:
    """Return where a run and its workspace are.

    Args:
        folder: Of the run.
        values: Of its `run.json`.
    """
    parent, _ = split_url(folder.url)
    began = str(values.get("workspace") or split_url(parent.url)[0].url)
    # A workspace may have been moved as a whole; a run outside one names its own.
    workspace = split_url(parent.url)[0] if parent.name == RUNS else Folder(began)
    # A run that was never opened has none.
    latents = str(values.get("latents", "none")).rpartition("/")[2]
    return RunPlaces(folder, workspace, began, latents)
