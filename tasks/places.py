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
# Of a report.
PAGE = "index.html"


class WorkspaceError(ValueError):
    """A workspace is not there, cannot be written, or lacks what a command goes on from."""


@dataclass(frozen=True)
class RunPlaces:
    """Where a run and its workspace are, and what its rows name since that was moved.

    Attributes:
        run: The run's folder.
        workspace: The workspace's folder.
        latents: Name of the latent store that the run edits.
        formerly: URLs that the workspace had when the run was begun or updated.
    """

    run: Folder
    workspace: Folder
    latents: str
    formerly: tuple[str, ...] = ()

    def find(self, uri: str | None) -> str | None:
        """Return where a file is now; None if it is in none of the folders."""
        now = dict.fromkeys(self.formerly, self.workspace.url)
        now |= {folder.url: folder.url for folder in (self.workspace, self.run)}
        # Of folders in each other the inner one: a workspace may be moved into its parent.
        held = [folder for folder in now if uri and uri.startswith(f"{folder}/")]
        folder = max(held, key=len, default="")
        return _straight(now[folder] + str(uri).removeprefix(folder)) if folder else None

    def find_edit(self, uri: str | None) -> str | None:
        """Return where an edited image of the run is now, of which rows say where it was."""
        _, found, name = (uri or "").rpartition(f"/{RUNS}/{self.run.name}/")
        return _straight(f"{self.run.url}/{name}") if found else self.find(uri)

    def find_face(self, uri: str | None) -> str | None:
        """Return where a crop or an inversion is now, of which rows say where it was."""
        return self.find(face_file(uri or "", self.workspace))


def _straight(uri: str) -> str | None:
    return None if ".." in uri.split("/") else uri


def places_of(folder: Folder, values: Mapping[str, Any], formerly: tuple[str, ...]) -> RunPlaces:
    """Return where a run and its workspace are.

    Args:
        folder: Of the run.
        values: Of its `run.json`.
        formerly: URLs that the workspace had.
    """
    workspace = Folder(workspace_of(folder, values))
    # A run that was never opened has none.
    latents = str(values.get("latents", "none")).rpartition("/")[2]
    return RunPlaces(folder, workspace, latents, formerly)


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


def face_file(uri: str, workspace: Folder) -> str:
    """Return where a crop, an inversion or an imported latent is in a workspace.

    Args:
        uri: What a row says, wherever the workspace was then.
        workspace: The workspace.

    Returns:
        The URL as it came if it is that of none.
    """
    folders = {uri.rfind(f"/{folder}/"): folder for folder in (CROPS, INVERSIONS, IMPORTS)}
    place = max(folders)
    return workspace.url_of(uri[place + 1 :]) if place >= 0 else uri
