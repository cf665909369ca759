"""An edit: one image, what is asked of it, and the name that follows from both."""

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import pyarrow as pa

from manifests.errors import EditError, Mistake
from manifests.instructions import INSTRUCTION_COLUMNS, Instruction
from manifests.schemas import EDITS

IMAGE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}", re.ASCII)


@dataclass(frozen=True)
class Edit:
    """One image and what is asked of it: one row of a manifest, one edited image.

    Attributes:
        image_id: Name of the face: 1 to 120 letters, digits, dots, dashes and underscores.
        instruction: What is asked.

    Raises:
        EditError: The image id is no name.
    """

    image_id: str
    instruction: Instruction

    def __post_init__(self) -> None:
        mistake = name_mistake("image_id", self.image_id)
        if mistake:
            raise EditError((mistake,))


def pair_id(edit: Edit) -> str:
    """Address an edit by its content: 16 hex digits of sha256; equal content gives equal ids."""
    # An image id needs no escaping in JSON.
    content = f'["{edit.image_id}",{edit.instruction.content}]'
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def edits_batch(edits: Collection[Edit], pair_ids: Iterable[str] | None = None) -> pa.RecordBatch:
    """Make rows of a manifest.

    Args:
        edits: Their content.
        pair_ids: One each; those of `pair_id` where None.
    """
    named = map(pair_id, edits) if pair_ids is None else pair_ids
    columns = {"pair_id": [*named], "image_id": [edit.image_id for edit in edits]}
    for name in INSTRUCTION_COLUMNS:
        columns[name] = [getattr(edit.instruction, name) for edit in edits]
    return pa.RecordBatch.from_pydict({name: columns[name] for name in EDITS.names}, EDITS)


def name_mistake(column: str, value: object) -> Mistake | None:
    """Say what is wrong with the name of an image or a row, which becomes part of file names."""
    if isinstance(value, str) and IMAGE_ID.fullmatch(value):
        return None
    remedy = "write the name that the table of faces has" if column == "image_id" else "rename it"
    start = value[:1_000] if isinstance(value, str) else ""
    if "/" in start or "\\" in start or start.startswith(".."):
        remedy = f"{remedy}, not a path"
    if start != start.strip():
        remedy = f"{remedy}, without blanks around it"
    if not isinstance(value, str | None):
        remedy = f"{remedy}, as text"
    expected = "1 to 120 letters, digits and . _ -, a letter or digit first"
    return Mistake(column, value, expected, remedy)
