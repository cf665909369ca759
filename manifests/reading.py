"""Manifests from CSV and Parquet files, streamed."""

from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

import pyarrow as pa

from manifests.edits import edits_batch
from manifests.errors import ManifestError, require_no_errors
from manifests.instructions import Limits, no_limits
from manifests.schemas import EDITS
from manifests.tables import RawBatch, stream_table
from manifests.validation import check_edits

# Columns, and what to do where one is not there.
_REQUIRED = {
    "image_id": "add it, or let `styleclip manifest build WORKSPACE MANIFEST --prompts TABLE` make "
    "a manifest of this table and all images",
    "target_prompt": "add it",
}


def stream_edits(file: BinaryIO) -> Iterator[RawBatch]:
    """Read the rows of a manifest as they stand in a CSV or Parquet file.

    Args:
        file: Seekable; local or remote.

    Raises:
        ManifestError: The file is neither, has an unknown column, lacks image_id or target_prompt,
            or has no rows.
    """
    batch = None
    for batch in stream_table(file, EDITS.names, _REQUIRED):
        yield batch
    if batch is None:
        raise ManifestError("manifest: got no rows, expected at least one edit; add a row")


def read_edits(file: BinaryIO, limits: Limits = no_limits) -> Iterator[pa.RecordBatch]:
    """Read a manifest; an empty cell, null or missing column has its default.

    The defaults are: neutral_prompt "a face", method global, alpha as in
    `manifests.instructions.DEFAULT_ALPHA`, a pair_id from the content of the row.

    Args:
        file: Seekable; CSV or Parquet; local or remote.
        limits: Of what can be asked for.

    Yields:
        Rows with the columns of `manifests.schemas.EDITS`, at most 16,384 at a time.

    Raises:
        ManifestError: A row has a mistake: after all batches before it, with the count of all. Or
            see `stream_edits`.
    """
    checks = check_edits(stream_edits(file), None, limits)
    for checked in checks:
        if checked.errors:
            remaining = chain.from_iterable(later.errors for later in checks)
            require_no_errors(chain(checked.errors, remaining))
        if checked.edits:
            yield edits_batch(checked.edits, checked.pair_ids)
