"""Manifests from images x prompts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.cells import read_instruction
from manifests.edits import Edit, edits_batch
from manifests.errors import EditError, ManifestError, RowError, require_no_errors
from manifests.ids import IdIndex
from manifests.instructions import INSTRUCTION_COLUMNS, Instruction, Limits, no_limits
from manifests.schemas import EDITS
from manifests.tables import RawBatch, stream_table

# Large enough to compress well, small enough to stream.
ROW_GROUP = 32_768


def instructions(
    target_prompts: Iterable[str], alphas: Iterable[float] = (), **settings: object
) -> list[Instruction]:
    """Ask for every prompt at every strength.

    Args:
        target_prompts: What the edited images shall show.
        alphas: Strengths; that of the method where there are none.
        settings: Further values for all, by the names of `Instruction`.

    Raises:
        EditError: A value is outside its range or contradicts another.
    """
    strengths: list[float | None] = [*alphas] or [None]
    return [
        read_instruction({"target_prompt": prompt, "alpha": alpha, **settings})
        for prompt in target_prompts
        for alpha in strengths
    ]


def read_instructions(file: BinaryIO, limits: Limits = no_limits) -> list[Instruction]:
    """Read a prompt table: the columns of a manifest without pair_id and image_id.

    A cell of alpha may hold several strengths, as in 2;4;6.

    Args:
        file: Seekable; CSV or Parquet; local or remote.
        limits: Of what can be asked for.

    Raises:
        ManifestError: A row has a mistake or repeats another, or there is none.
    """
    rows_of, errors = dict[Instruction, int](), list[RowError]()
    for batch in stream_table(file, INSTRUCTION_COLUMNS, {"target_prompt": "add it"}):
        errors += batch.errors
        for row, cells in _rows(batch):
            try:
                asked = [read_instruction(part) for part in _by_alpha(cells)]
            except EditError as error:
                errors += [RowError(row, *mistake) for mistake in error.mistakes]
                continue
            found = dict[RowError, None]()
            for instruction in asked:
                found |= dict.fromkeys(RowError(row, *mistake) for mistake in limits(instruction))
                if instruction in rows_of:
                    found[_repetition(row, rows_of[instruction], instruction)] = None
                rows_of.setdefault(instruction, row)
            # Once for all strengths of a cell.
            errors += found
    require_no_errors(sorted(errors, key=lambda error: error.row), "prompt table")
    if not rows_of:
        raise ManifestError("prompt table: got no rows, expected at least one target_prompt")
    return [*rows_of]


def build_edits(
    image_ids: Iterable[str], prompts: Sequence[Instruction]
) -> Iterator[pa.RecordBatch]:
    """Ask for every prompt of every image.

    Image by image, each with the prompts in their order: the latent of an image is then read, and
    turned into styles, once for all of its edits.

    Args:
        image_ids: Names of faces, each once; streamed.
        prompts: What is asked of each.

    Yields:
        Rows with the columns of `manifests.schemas.EDITS`, 16,385 to 32,768 at a time, the rest
        last.

    Raises:
        ManifestError: There is no prompt, or an image id or prompt comes twice.
        EditError: An image id is no name.
    """
    if not prompts:
        raise ManifestError("prompts: got none, expected at least one; add a target_prompt")
    if len(set(prompts)) < len(prompts):
        raise ManifestError("prompts: got one twice, expected each once; remove the repetition")
    index, position, remaining = IdIndex(), 1, iter(image_ids)
    while images := [*islice(remaining, max(1, ROW_GROUP // len(prompts)))]:
        _require_new(index, images, position)
        position += len(images)
        batch = edits_batch([Edit(image, prompt) for image in images for prompt in prompts])
        yield from (batch.slice(at, ROW_GROUP) for at in range(0, len(batch), ROW_GROUP))


def write_edits(batches: Iterable[pa.RecordBatch], file: BinaryIO) -> int:
    """Write a manifest as Parquet; equal rows give equal bytes, however they are batched.

    Args:
        batches: With the columns of `manifests.schemas.EDITS`.
        file: Open for writing. After an error it holds no readable manifest.

    Returns:
        Rows written.
    """
    writer = pq.ParquetWriter(file, EDITS, compression="zstd", write_page_checksum=True)
    rows = 0
    try:
        for table in regroup(batches, ROW_GROUP):
            writer.write_table(table, row_group_size=ROW_GROUP)
            rows += len(table)
    except BaseException:
        # Closing makes a whole file of the rows so far, which must not pass for the manifest.
        writer.close()
        file.write(b"incomplete")
        raise
    writer.close()
    return rows


def regroup(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """Regroup the rows of a manifest into tables of `size` rows, the last one shorter."""
    waiting = EDITS.empty_table()
    for batch in batches:
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch]).cast(EDITS)])
        while len(waiting) >= size:
            yield waiting.slice(0, size).combine_chunks()
            waiting = waiting.slice(size)
    if len(waiting):
        yield waiting.combine_chunks()


def _rows(batch: RawBatch) -> Iterator[tuple[int, Mapping[str, object]]]:
    for place, row in enumerate(batch.rows):
        yield row, {name: cells[place] for name, cells in batch.columns.items()}


def _by_alpha(cells: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    alpha = cells.get("alpha")
    several = alpha.split(";") if isinstance(alpha, str) else [alpha]
    return ({**cells, "alpha": part} for part in several)


def _repetition(row: int, first: int, instruction: Instruction) -> RowError:
    if row == first:
        return RowError(row, "alpha", instruction.alpha, "each strength once", "remove one")
    expected = f"another prompt or strength than in row {first:,}"
    return RowError(row, "target_prompt", instruction.target_prompt, expected, "remove a row")


def _require_new(index: IdIndex, images: Sequence[str], position: int) -> None:
    numbers = range(position, position + len(images))
    for image, number, first in zip(
        images, numbers, index.first_rows(images, numbers).tolist(), strict=True
    ):
        if number != first:
            raise ManifestError(
                f"image_ids: got {image!r} at {first:,} and {number:,}, expected each image once; "
                "remove one"
            )
