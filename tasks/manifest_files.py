"""Manifests and prompt tables as files on any URL."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.building import build_edits, instructions, read_instructions, write_edits
from manifests.errors import ManifestError
from manifests.instructions import DEFAULT_NEUTRAL_PROMPT, Instruction, Limits, no_limits
from manifests.reading import read_edits, stream_edits
from manifests.validation import CheckedBatch, check_edits
from tasks.latents import imported_images
from tasks.photos.faces import faces_ledger
from tasks.store.folders import is_file, nearest, split_url

# What the settings of a command are where nothing is said.
_UNSAID = (DEFAULT_NEUTRAL_PROMPT, "global")
_TABLES = (".csv", ".parquet", ".tsv", ".json", ".txt")


def require_manifest(manifest: str) -> None:
    """Refuse what is no manifest, or has a mistake in its first rows.

    Args:
        manifest: URL of a CSV or Parquet file.

    Raises:
        ManifestError: It is not there, has other columns, or one of the first 16,384 rows has a
            mistake.
    """
    next(stream_manifest(manifest), None)


def stream_manifest(manifest: str, limits: Limits = no_limits) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a manifest.

    Args:
        manifest: URL of a CSV or Parquet file.
        limits: Of what can be asked for.

    Raises:
        ManifestError: It is not there, or a row has a mistake.
    """
    with _opened(manifest) as file:
        yield from read_edits(file, limits)


def check_manifest(
    manifest: str, workspace: str, limits: Limits = no_limits
) -> Iterator[CheckedBatch]:
    """Yield the rows of a manifest, those that are sound and everything that is wrong.

    Args:
        manifest: URL of a CSV or Parquet file.
        workspace: Whose faces it must name; any where empty.
        limits: Of what can be asked for.
    """
    known = set(usable_faces(workspace)) if workspace else None
    with _opened(manifest) as file:
        yield from check_edits(stream_edits(file), known, limits)


def usable_faces(workspace: str, store: str = "") -> list[str]:
    """Return the image ids of all aligned faces of a workspace, then those of imported latents.

    Args:
        workspace: URL of the workspace.
        store: Name of the latent store that the imported ones are in; all stores where empty.
    """
    found = list[str]()
    for faces in faces_ledger(workspace).results():
        found += faces.filter(pc.equal(faces["status"], "ok"))["image_id"].to_pylist()
    return [*dict.fromkeys([*found, *imported_images(workspace, store)])]


def build_manifest(
    image_ids: Sequence[str], prompts: Sequence[Instruction], destination: str
) -> int:
    """Write a manifest of every image with every prompt.

    Args:
        image_ids: Of aligned faces.
        prompts: What is asked of each, see `read_prompts`.
        destination: URL of the Parquet file.

    Returns:
        Its rows.

    Raises:
        ManifestError: There is no image, a prompt comes twice, or the file is to be no Parquet.
    """
    require_parquet(destination)
    if not image_ids:
        raise ManifestError(
            "images: got none, expected aligned faces or imported latents; `styleclip align` makes "
            "them, and the table of faces says why a photograph has none"
        )
    folder, name = split_url(destination)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "manifest.parquet")
        with path.open("wb") as file:
            rows = write_edits(build_edits(image_ids, prompts), file)
        folder.take_in(name, path)
    return rows


def require_parquet(destination: str) -> None:
    """Refuse to write a manifest under a name that says something else.

    Raises:
        ManifestError: The name does not end with .parquet.
    """
    if not destination.endswith(".parquet"):
        raise ManifestError(
            f"manifest: got {destination}, expected a name that ends with .parquet; what shall be "
            "edited by hand is a CSV of prompts, which `manifest build --prompts` reads"
        )


def read_prompts(prompts: str, limits: Limits = no_limits) -> list[Instruction]:
    """Read a prompt table from a URL.

    Args:
        prompts: Its URL.
        limits: Of what can be asked for.

    Raises:
        ManifestError: It is not there, or a row has a mistake.
    """
    with _opened(prompts) as file:
        return read_instructions(file, limits)


def read_asked(
    prompts: str, targets: Sequence[str], alphas: Sequence[float], **settings: Any
) -> list[Instruction]:
    """Return what a command is asked for: the rows of a table of prompts, or targets.

    Args:
        prompts: URL of the table, see `read_prompts`; empty for none.
        targets: Target prompts, for `manifests.building.instructions`.
        alphas: Likewise.
        settings: Likewise.

    Raises:
        ManifestError: See `require_asked`; or there are alphas or settings beside a table.
    """
    require_asked(prompts, targets)
    beside = [n for n, value in settings.items() if value not in (None, *_UNSAID)]
    beside += ["alpha"] if [*alphas] else []
    if prompts and beside:
        raise ManifestError(
            f"prompts: got the table {prompts} and {', '.join(beside)} beside it, expected the "
            "table alone; these are columns of it"
        )
    return read_prompts(prompts) if prompts else instructions(targets, alphas, **settings)


def require_asked(prompts: str, targets: Sequence[str]) -> None:
    """Refuse to be asked for nothing, or for two things.

    Args:
        prompts: URL of a table; empty for none.
        targets: Target prompts.

    Raises:
        ManifestError: Both are given, or neither; or a target is a table.
    """
    if bool(prompts) == bool(targets):
        raise ManifestError(
            f"prompts: got {prompts or 'none'} and targets {[*targets] or 'none'}, expected one of "
            "--prompts TABLE and --target PROMPT"
        )
    require_texts(targets)


def require_texts(prompts: Iterable[str]) -> None:
    """Refuse tables among prompts: a file's name can be embedded as well as any text.

    Raises:
        ManifestError: One names a file.
    """
    for text in prompts:
        if text.lower().endswith(_TABLES) or (os.sep in text and Path(text).is_file()):
            raise ManifestError(
                f"prompt: got the file {text}, expected a text such as 'a smiling face'; "
                "`manifest build`, `tune` and `run` read tables of prompts"
            )


@dataclass(frozen=True)
class Manifest:
    """The rows of a manifest, read anew each time that they are iterated.

    Attributes:
        url: CSV or Parquet file.
    """

    url: str

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return stream_manifest(self.url)

    def version(self) -> str:
        """Return what changes when the file is replaced; empty where there is none."""
        folder, name = split_url(self.url)
        try:
            return folder.version(name)
        except FileNotFoundError:
            return ""


@contextmanager
def _opened(url: str) -> Iterator[Any]:
    folder, name = split_url(url)
    # Stores open folders as empty files.
    if not is_file(url):
        several = "*" in url or folder.exists(name)
        raise ManifestError(_several(url) if several else _absent(url))
    try:
        with folder.open(name) as file:
            yield file
    except ManifestError as error:
        raise ManifestError(f"{name}: {error}", error.errors, error.count) from error


def _several(url: str) -> str:
    kind = "pattern" if "*" in url else "folder"
    return (
        f"table: got the {kind} {url}, expected a CSV or Parquet file; are two arguments swapped? "
        "`pandas.read_parquet(FOLDER).to_parquet(FILE, index=False)` makes one table of many"
    )


def _absent(url: str) -> str:
    name = url if url.endswith(".parquet") else "edits.parquet"
    return (
        f"table: got {url}, which is not there{nearest(url)}, expected a CSV or Parquet file; "
        f'a manifest is made with `styleclip manifest build WORKSPACE {name} --target "a smiling '
        'face"`, and a table of prompts is a CSV with the columns target_prompt, neutral_prompt, '
        "method and alpha"
    )
