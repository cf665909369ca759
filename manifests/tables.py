"""Tables as they stand in CSV and Parquet files: streamed, and no cell interpreted."""

import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import ManifestError, RowError, did_you_mean, shown
from manifests.schemas import EDITS

ROWS_AT_ONCE = 16_384
_BUFFER = 1 << 20
_SEPARATORS = {",": "comma", ";": "semicolon"}
# What Excel reads first, and shows as no row.
_SEPARATOR_LINE = re.compile(r"sep=([,;])\s*", re.IGNORECASE)
# Of 1,5 and, in a table of prompts, of 1,5;2,5; not of 1,2,3 or 1.000,5.
_DECIMAL_COMMA = re.compile(r"(?<![\w.,])(\d*),(\d+(?:[eE][+-]?\d+)?)(?![\w.,])")
_NUMBERS = {field.name for field in EDITS if not pa.types.is_string(field.type)}
# Bounds on what a small file can make of itself, far above what any table of ours needs.
_LONGEST_RECORD = 1 << 18
_LONGEST_BATCH = 1 << 25
_LARGEST_COLUMN = 1 << 28
_MOST_ROWS = 100_000_000

_OTHER_FORMATS = {
    b"PK\x03\x04": "a spreadsheet or archive",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"\x1f\x8b": "a gzip file",
}
# Bytes that are not UTF-8, see `_read_csv`, and those that no text has.
_NO_TEXT = re.compile("[\ud800-\udfff\x00-\x08]")


class RawBatch(NamedTuple):
    """Some rows of a file.

    Attributes:
        rows: Their numbers, see `RowError.row`.
        columns: By name, one cell a row; None is a null or an empty cell.
        errors: Rows that have no cells to speak of.
    """

    rows: Sequence[int]
    columns: Mapping[str, Sequence[object]]
    errors: Sequence[RowError] = ()


def stream_table(
    file: BinaryIO, allowed: Collection[str], required: Mapping[str, str]
) -> Iterator[RawBatch]:
    """Read a CSV or Parquet file a few thousand rows at a time.

    CSV is UTF-8, with or without a byte order mark, separated by commas, or by semicolons as
    spreadsheets write it where numbers have commas, which become points; cells may hold quoted
    separators, quotes and line breaks; rows without any content are skipped, and so are a first
    line `sep=;` and the index 0, 1, 2, ... of pandas. Parquet is told by its first bytes.

    Args:
        file: Seekable.
        allowed: Names that columns may have.
        required: Names that must be among them, and what to do where one is not.

    Raises:
        ManifestError: The file is neither, or its columns are not those expected.
    """
    start = file.read(4)
    file.seek(0)
    for mark, description in _OTHER_FORMATS.items():
        if start.startswith(mark):
            raise ManifestError(
                f"table: got {description}, expected CSV in UTF-8 or Parquet; export it as one"
            )
    read = _read_parquet if start == b"PAR1" else _read_csv
    yield from read(file, allowed, required)


def _read_csv(
    file: BinaryIO, allowed: Collection[str], required: Mapping[str, str]
) -> Iterator[RawBatch]:
    # Bytes that are not UTF-8 become surrogates, which the check of the cell reports with its row.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        separator = _separator(text)
        records = _records(text, separator)
        names = _header(records)
        if names[:1] == [""]:
            names, records = names[1:], _without_index(records)
        _check_columns(names, allowed, required)
        for part in _parts(records):
            batch = _csv_batch(names, part, _SEPARATORS[separator])
            yield _with_points(batch) if separator == ";" else batch
    finally:
        text.detach()


class _Unreadable(NamedTuple):
    """Why the rest of a CSV file cannot be told into rows."""

    reason: str


def _separator(text: io.TextIOWrapper) -> str:
    """Say what is between the cells, and go to the first row.

    Names of columns hold neither, so that their row says it where no line before does.
    """
    line = text.readline(_LONGEST_RECORD)
    if declared := _SEPARATOR_LINE.fullmatch(line):
        return declared[1]
    while line and not line.strip():
        line = text.readline(_LONGEST_RECORD)
    text.seek(0)
    return ";" if ";" in line and "," not in line else ","


def _records(
    text: io.TextIOWrapper, separator: str
) -> Iterator[tuple[int, list[str] | _Unreadable]]:
    """The rows of a CSV file that hold anything, with their numbers."""
    row, left = 0, _LONGEST_RECORD

    def lines() -> Iterator[str]:
        nonlocal left
        while line := text.readline(left + 1):
            left -= len(line)
            if left < 0:
                raise csv.Error(f"more than {_LONGEST_RECORD:,} characters in a row")
            yield line

    try:
        for row, cells in enumerate(csv.reader(lines(), delimiter=separator, strict=True), start=1):
            left = _LONGEST_RECORD
            if any(cells):
                yield row, cells
    except csv.Error as error:
        yield row + 1, _Unreadable(str(error))


def _parts(
    records: Iterator[tuple[int, list[str] | _Unreadable]],
) -> Iterator[list[tuple[int, list[str] | _Unreadable]]]:
    """Some thousand rows at a time, fewer where they are long."""
    part, length = list[tuple[int, list[str] | _Unreadable]](), 0
    for record in records:
        part.append(record)
        length += sum(map(len, record[1]))
        if len(part) == ROWS_AT_ONCE or length > _LONGEST_BATCH:
            yield part
            part, length = [], 0
    if part:
        yield part


def _header(records: Iterator[tuple[int, list[str] | _Unreadable]]) -> list[str]:
    _, cells = next(records, (0, []))
    if not cells:
        raise ManifestError(
            "table: got an empty file, expected CSV in UTF-8 or Parquet; write it again"
        )
    if isinstance(cells, _Unreadable):
        raise ManifestError(f"header: got {cells.reason}, expected the names of the columns")
    names = [name.strip() for name in cells]
    while names and not names[-1]:
        names.pop()
    if len(names) == 1 and ("\t" in names[0] or names[0].startswith("sep=")):
        raise ManifestError(
            f"header: got {shown(names[0])}, expected names separated by commas or semicolons; "
            "export the table with commas"
        )
    if any(map(_NO_TEXT.search, names)):
        raise ManifestError(
            "header: got bytes that are no text, expected names of columns in UTF-8, or a Parquet "
            "file; the file is damaged, or of another kind"
        )
    return names


def _without_index(
    records: Iterator[tuple[int, list[str] | _Unreadable]],
) -> Iterator[tuple[int, list[str] | _Unreadable]]:
    """Leave out a first column without a name, which must be the index that pandas writes."""
    for number, (row, cells) in enumerate(records):
        if isinstance(cells, _Unreadable):
            yield row, cells
        elif cells[0] == str(number):
            yield row, cells[1:]
        else:
            raise ManifestError(
                f"columns: got {shown(cells[0])} in row {row:,} of a first column without a name, "
                f"expected {number:,}, as in the index of pandas; give the column a name, or write "
                "the table with index=False"
            )


def _csv_batch(
    names: Sequence[str], part: Sequence[tuple[int, list[str] | _Unreadable]], separator: str
) -> RawBatch:
    rows, records, errors = list[int](), list[list[str | None]](), list[RowError]()
    for row, cells in part:
        error = _row_error(row, cells, len(names), separator)
        if error:
            errors.append(error)
        else:
            rows.append(row)
            records.append([cell or None for cell in cells])
    # Empty cells may follow the last column.
    columns = zip(*(record[: len(names)] for record in records), strict=True)
    empty: Iterable[tuple[str | None, ...]] = ((),) * len(names)
    return RawBatch(rows, dict(zip(names, columns if records else empty, strict=True)), errors)


def _with_points(batch: RawBatch) -> RawBatch:
    """Write the decimal commas of its numbers as points."""
    numbers = {
        name: [_with_point(cell) for cell in cells]
        for name, cells in batch.columns.items()
        if name in _NUMBERS
    }
    return batch._replace(columns={**batch.columns, **numbers})


def _with_point(cell: object) -> object:
    return _DECIMAL_COMMA.sub(r"\1.\2", cell) if isinstance(cell, str) else cell


def _row_error(
    row: int, cells: list[str] | _Unreadable, width: int, separator: str
) -> RowError | None:
    if isinstance(cells, _Unreadable):
        remedy = "close each quote and double those inside; the rows from here on were not read"
        return RowError(row, "", cells.reason, "quoted cells of CSV", remedy)
    if len(cells) < width:
        remedy = f"an empty cell still needs its {separator}"
    elif any(cells[width:]):
        remedy = f"put a cell that holds a {separator} in quotes"
    else:
        return None
    return RowError(row, "", len(cells), f"{width} cells as in the header", remedy)


def _read_parquet(
    file: BinaryIO, allowed: Collection[str], required: Mapping[str, str]
) -> Iterator[RawBatch]:
    with _reading_parquet():
        metadata = pq.read_metadata(file)
        names = metadata.schema.to_arrow_schema().names
    _check_columns(names, allowed, required)
    _check_sizes(metadata)
    leaves = [metadata.schema.column(place) for place in range(len(metadata.schema))]
    with _reading_parquet():
        # The defaults hold the whole file, or a column of a whole row group, in memory.
        table = pq.ParquetFile(
            file,
            metadata=metadata,
            pre_buffer=False,
            buffer_size=_BUFFER,
            page_checksum_verification=True,
            read_dictionary=[one.path for one in leaves if one.physical_type == "BYTE_ARRAY"],
        )
    batches, first = table.iter_batches(ROWS_AT_ONCE, use_threads=False), 1
    while True:
        with _reading_parquet():
            batch = next(batches, None)
        if batch is None:
            return
        with _reading_parquet():
            columns = dict(zip(names, map(_values, batch.columns), strict=True))
        yield RawBatch(range(first, first + len(batch)), columns)
        first += len(batch)


def _check_sizes(metadata: pq.FileMetaData) -> None:
    if metadata.num_rows > _MOST_ROWS:
        raise ManifestError(
            f"table: got {metadata.num_rows:,} rows, expected at most {_MOST_ROWS:,}; split it"
        )
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for place in range(group.num_columns):
            column = group.column(place)
            if column.total_uncompressed_size > _LARGEST_COLUMN:
                raise ManifestError(
                    f"table: got {column.total_uncompressed_size:,} bytes of "
                    f"{column.path_in_schema} in row group {number}, expected at most "
                    f"{_LARGEST_COLUMN:,}; write smaller row groups"
                )


@contextmanager
def _reading_parquet() -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        # An error of the store has a number or a class of its own and is no fault of the file.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno):
            raise
        raise ManifestError(
            f"table: got a damaged Parquet file ({error}), expected a whole one; write it again"
        ) from error


def _values(column: pa.Array) -> list[object]:
    """The cells of a column as plain values; what Python cannot hold stays as Arrow has it."""
    if pa.types.is_dictionary(column.type):
        # Not decoded by Arrow, which would copy a long text for every row that has it.
        texts = [*_values(column.dictionary), None]
        places = [-1 if place is None else place for place in column.indices.to_pylist()]
        if max(places, default=-1) >= len(texts) - 1 or min(places, default=-1) < -1:
            raise pa.ArrowInvalid("a row names a text that is not there")
        return [texts[place] for place in places]
    cells = _plain(column)
    # An empty text is an empty cell, as in CSV.
    return [None if isinstance(cell, str) and not cell else cell for cell in cells]


def _plain(column: pa.Array) -> list[object]:
    if not pa.types.is_nested(column.type):
        try:
            return list(column.to_pylist())
        except UnicodeDecodeError:
            return list(column.cast(pa.large_binary()).to_pylist())
        except (ValueError, OverflowError):
            pass
    return [cell if cell.is_valid else None for cell in column]


def _column_remedy(name: str, names: Sequence[str], allowed: Collection[str]) -> str:
    if name.startswith(("__index_level_", "Unnamed: ")):
        return "it is an index that pandas wrote: write the table with index=False, or remove it"
    if name in ("image_id", "pair_id"):
        return "a table that has it is a manifest, which `styleclip edit` takes"
    if name in EDITS.names:
        return "a table that has it is a manifest or has prompts: are two arguments swapped?"
    known = any(one in allowed for one in names)
    nameless = "is the first row the names of the columns? if it is, rename it"
    return did_you_mean(name, allowed, "rename or remove it" if known else nameless)


def _check_columns(
    names: Sequence[str], allowed: Collection[str], required: Mapping[str, str]
) -> None:
    for name in names:
        if name not in allowed:
            raise ManifestError(
                f"columns: got {shown(name)}, expected some of {', '.join(allowed)}; "
                f"{_column_remedy(name, names, allowed)}"
            )
        if names.count(name) > 1:
            raise ManifestError(f"columns: got {name} twice, expected each once; remove one")
    for name, remedy in required.items():
        if name not in names:
            got = ", ".join(names) or "nothing"
            raise ManifestError(f"columns: got {got}, expected {name} among them; {remedy}")
