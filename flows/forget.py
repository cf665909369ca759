"""One face leaves a workspace."""

import sys
import time

from flows.progress import console, describe_counts, progress_bar, say
from flows.summary import MOST_IN_JSON, Check, Summary
from tasks.forgetting import Forgetting, ForgettingError


def forget_image(
    workspace: str, image_id: str, *, runs: list[str] | None = None, yes: bool = False
) -> Summary:
    """Remove one face: its crop, latents, inversion, edits, and rows; then search for what is left.

    No other command may be at work on the workspace. Reports of runs that edited the face are
    removed. The photograph is yours, and stays where it is. Stopped anywhere, the same command
    completes it; the exit code is 1 if something is left.

    Args:
        workspace: Folder or URL that holds all data.
        image_id: The face, as the table of faces names it.
        runs: URLs of runs outside the workspace.
        yes: Do not ask.
    """
    began = time.monotonic()
    forgetting = Forgetting(workspace, image_id, runs or ())
    _announce(forgetting, image_id)
    # Ask only if there is something to remove.
    if (forgetting.is_known or forgetting.has_pictures) and not yes:
        _ask(image_id)
    forgetting.erase()
    files, left = forgetting.files(), list[str]()
    with progress_bar("searching", len(files)) as bar:
        for trace in forgetting.prove(files, bar.advance):
            left.append(f"{trace.url}: {trace.what}")
            say(f"left: {left[-1]}")
    _conclude(forgetting, len(files), len(left))
    counts = dict(forgetting.removed) | {"left": len(left)}
    facts = {
        "files_searched": len(files),
        "left": left[:MOST_IN_JSON],
        "photographs": forgetting.sources,
        "other_faces": sorted(forgetting.siblings),
        "same_content": sorted(forgetting.duplicates),
    }
    took = time.monotonic() - began
    if any(counts.values()):
        return Summary("forget", workspace, counts, took, facts)
    # Who misspelt a name should not be told that it is done.
    undone = "" if forgetting.is_known else f"no face is named {image_id}, and no file names it"
    return Check("forget", workspace, counts, took, facts, undone=undone)


def _announce(forgetting: Forgetting, image_id: str) -> None:
    if not forgetting.is_known:
        say(
            f"{image_id}: no face of this workspace has this name (`styleclip faces` lists all); "
            "searching its files"
        )
        return
    edits = describe_counts({"edits": forgetting.pairs}) or "no edit"
    runs = describe_counts({"runs": len(forgetting.runs)})
    told = f"{edits} in {runs}" if runs else edits
    say(f"{image_id}: its crop, latents, inversion, and {told}")
    for uri in forgetting.sources:
        say(f"stays: the photograph {uri}, which is yours")
    if forgetting.siblings:
        names = ", ".join(sorted(forgetting.siblings))
        say(f"stays: other faces of the photograph: {names}")
    if forgetting.duplicates:
        names = ", ".join(sorted(forgetting.duplicates))
        say(f"stays: faces of files with the same content: {names}")


def _ask(image_id: str) -> None:
    if not sys.stdin.isatty():
        raise ForgettingError("forget: got no terminal to ask on, expected one, or --yes")
    console.print("This cannot be undone. Type the image id to go on:", end=" ")
    if input().strip() != image_id:
        raise ForgettingError("forget: got another answer than the image id; nothing is changed")


def _conclude(forgetting: Forgetting, files: int, left: int) -> None:
    if left:
        say(
            "Files in the workspace still name the face: remove them, or its rows in them, and "
            "give the same command again"
        )
        return
    person = forgetting.person
    if not forgetting.is_known and not any(forgetting.removed.values()):
        say(
            f"searched {files} files: nothing names {person.image_id}; no face of this workspace "
            "has or had this name (`styleclip faces` lists all)"
        )
        return
    say(
        f"searched {files} files for the name, {len(person.uris)} URIs and {len(person.digests)} "
        "digests: nothing is left. Out of reach: backups, versions that the store keeps, what was "
        "copied elsewhere, and manifests and pages of `tune` outside of the workspace: make those "
        "again, since `edit` takes their rows of the face for new ones"
    )
    if forgetting.sources:
        say("Take the photograph out of the input, or `styleclip align` finds it again")
    for url in forgetting.runs:
        say(f"the report of {url} is removed; `styleclip evaluate` makes it again")
