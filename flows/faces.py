"""What a workspace knows of its photographs."""

from typing import Any

from manifests.schemas import FACE_STATUSES, LATENT_FAILURES
from tasks.latents import imported_images, unsound_latents
from tasks.photos.faces import faces_ledger
from tasks.places import WorkspaceError
from tasks.store.folders import Folder


def list_faces(workspace: str, *, status: str = "") -> list[dict[str, str]]:
    """List the faces of a workspace by the names that other commands take, with their photographs.

    Photographs without a face that can be used are listed too, and faces and imports without a
    sound latent, with a status and the reason.

    Args:
        workspace: Folder or URL that holds all data.
        status: List those of this status only: ok, no_face, several_faces, too_small, unreadable,
            failed.
    """
    columns = ["image_id", "status", "source_uri", "error", "num_faces"]
    found = [
        row
        for faces in faces_ledger(Folder(workspace).url).results()
        for row in faces.select(columns).to_pylist()
    ]
    found += [
        {"image_id": name, "status": "ok", "source_uri": "imported", "error": None}
        for name in imported_images(workspace)
    ]
    unsound = {latent["image_id"]: latent for latent in unsound_latents(workspace)}
    found = [row | unsound.pop(row["image_id"], {}) for row in found]
    found += [{"source_uri": "imported"} | latent for latent in unsound.values()]
    if not found:
        raise WorkspaceError(
            f"workspace: got {workspace}, expected one with faces; `styleclip align PHOTOS "
            f"{workspace}` finds them"
        )
    known = [*dict.fromkeys([*FACE_STATUSES, *LATENT_FAILURES])]
    if status and status not in known:
        raise ValueError(f"status: got {status!r}, expected one of {', '.join(known)}")
    shown = [row for row in found if status in ("", row["status"])]
    return [_told(row) for row in shown]


def _told(row: dict[str, Any]) -> dict[str, str]:
    """A row in words, with a note where there is something to know."""
    count = row.get("num_faces") or 0
    note = row["error"] or (f"one of {count} faces found there" if count > 1 else "")
    return {name: row[name] for name in ("image_id", "status", "source_uri")} | {"note": note}
