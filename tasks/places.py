"""Where things are in a workspace, and where those that rows name are since it was moved."""

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
        latents: Name of the latent store that the run edits.
    """

    run: Folder
    workspace: Folder
    latents: str

    def find(self, uri: str | None) -> str | None:
        """Return where a file of the run is now; None if it is in neither of the folders."""
        if not uri:
            return None
        if not self._holds(uri):
            uri = moved(uri, self.workspace, f"{RUNS}/{self.run.name}")
        return uri if self._holds(uri) and ".." not in uri.split("/") else None

    def _holds(self, uri: str) -> bool:
        return uri.startswith((f"{self.run.url}/", f"{self.workspace.url}/"))


def places_of(folder: Folder, values: Mapping[str, Any]) -> RunPlaces:
    """Return where a run and its workspace are.

    Args:
        folder: Of the run.
        values: Of its `run.json`.
    """
    workspace = Folder(workspace_of(folder, values))
    # A run that was never opened has none.
    latents = str(values.get("latents", "none")).rpartition("/")[2]
    return RunPlaces(folder, workspace, latents)


def workspace_of(folder: Folder, values: Mapping[str, Any]) -> str:
    """Return the URL of the workspace of a run, which may have been moved as a whole.

    Args:
        folder: Of the run.
        values: Of its `run.json`, which says where the workspace was; a run outside of one, as a
            copy is, has no other.
    """
    parent, _ = split_url(folder.url)
    around = split_url(parent.url)[0].url
    return around if parent.name == RUNS else str(values.get("workspace") or around)


def moved(uri: str, workspace: Folder, run: str = "") -> str:
    """Return where a file that rows name is in a workspace, wherever that was when they did.

    Args:
        uri: Of a crop, an inversion, an imported latent, or a file of the run.
        workspace: The workspace.
        run: Path of a run in it.

    Returns:
        The URL as it came if it is that of nothing in a workspace.
    """
    # An image of a run lies in a folder of its face, which may be called as one of these is.
    for folder in (run, CROPS, INVERSIONS, IMPORTS):
        _, found, rest = uri.rpartition(f"/{folder}/")
        if folder and found:
            return workspace.url_of(f"{folder}/{rest}")
    return uri
