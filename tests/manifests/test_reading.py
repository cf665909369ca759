import io
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import tables
from manifests.building import write_edits
from manifests.edits import Edit, edits_batch, pair_id
from manifests.errors import ManifestError
from manifests.instructions import Instruction
from manifests.reading import read_edits, stream_edits
from manifests.schemas import EDITS
from manifests.tables import ROWS_AT_ONCE

from manifest_samples import EDITS_DRAWN, csv_file, messages, parquet_file

INSTRUCTION = Instruction(target_prompt="x", alpha=1.0)
LISTS = st.lists(EDITS_DRAWN, min_size=1, max_size=5, unique_by=pair_id)
HEADER = ("image_id", "target_prompt")


def read(file: io.BytesIO) -> pa.Table:
    return pa.Table.from_batches(read_edits(file), EDITS)


def table(edits: list[Edit]) -> pa.Table:
    return pa.Table.from_batches([edits_batch(edits)])


@given(LISTS)
@settings(deadline=None, max_examples=40)
def test_parquet_round_trip(edits: list[Edit]) -> None:
    sink = io.BytesIO()
    assert write_edits([edits_batch(edits)], sink) == len(edits)
    sink.seek(0)
    assert read(sink).equals(table(edits), check_metadata=True)


@given(LISTS)
@settings(deadline=None, max_examples=40)
def test_csv_round_trip(edits: list[Edit]) -> None:
    rows = [
        ["" if value is None else value for value in row.values()]
        for row in table(edits).to_pylist()
    ]
    file = csv_file(EDITS.names, rows)
    assert read(file).equals(table(edits))
    without_ids = csv_file(EDITS.names[1:], [row[1:] for row in rows])
    assert read(without_ids).equals(table(edits))
    assert not file.closed


WRITERS = {
    "pandas csv": lambda frame, sink: frame.to_csv(sink, index=False),
    "pandas csv with its index": lambda frame, sink: frame.to_csv(sink),
    "pandas csv for Excel": lambda frame, sink: frame.to_csv(
        sink, index=False, encoding="utf-8-sig", lineterminator="\r\n"
    ),
    "pandas parquet": lambda frame, sink: frame.to_parquet(sink, index=False),
    "arrow csv": lambda frame, sink: pa.csv.write_csv(
        pa.Table.from_pandas(frame, preserve_index=False), sink
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_other_libraries_write(writer: str) -> None:
    frame = pd.DataFrame(
        {
            "image_id": ["a", "b"],
            "target_prompt": ['a "smiling",\nface', "\U0001f600 \u05e9\u05dc\u05d5\u05dd"],
            "alpha": [2, 3],
            "num_channels": [20, None],  # pandas makes 20.0 of it
            "options": pd.Series([None, None], dtype="object"),
        }
    )
    sink = io.BytesIO()
    WRITERS[writer](frame, sink)
    sink.seek(0)
    got = read(sink).to_pylist()
    assert [row["target_prompt"] for row in got] == [
        " ".join(prompt.split()) for prompt in frame["target_prompt"]
    ]
    assert [(row["alpha"], row["num_channels"]) for row in got] == [(2.0, 20), (3.0, None)]


def test_hand_written_csv_has_defaults_blank_rows_spare_commas_and_spaces() -> None:
    text = (
        "\ufeff image_id , target_prompt,method,alpha,,\r\n"
        "\r\n"
        'a," a  red\nsmile ",,,,\r\n'
        ",,,,,\r\n"
        "b,a hat,mapper, 2 ,,"
    )
    got = read(io.BytesIO(text.encode())).to_pylist()
    assert [(r["image_id"], r["target_prompt"], r["method"], r["alpha"]) for r in got] == [
        ("a", "a red smile", "global", 4.0),
        ("b", "a hat", "mapper", 2.0),
    ]
    assert {row["neutral_prompt"] for row in got} == {"a face"}


def test_semicolons_separate_as_spreadsheets_of_many_countries_write_them() -> None:
    text = (
        '\ufeff;;\r\n"image_id";target_prompt;alpha\r\n'
        'a;"a hat; and, a ""smile""";2\r\nb;old, and wise;\r\n'
    )
    got = read(io.BytesIO(text.encode())).to_pylist()
    assert [(r["image_id"], r["target_prompt"], r["alpha"]) for r in got] == [
        ("a", 'a hat; and, a "smile"', 2.0),
        ("b", "old, and wise", 4.0),
    ]
    said = messages(io.BytesIO(b"image_id;target_prompt;alpha\na;x;4\nb;y;2;4\nc;z\n"))
    assert [line.split("; ")[0] for line in said] == [
        "row 3: got 4, expected 3 cells as in the header",
        "row 4: got 2, expected 3 cells as in the header",
    ]
    assert said[0].endswith("put a cell that holds a semicolon in quotes")
    assert said[1].endswith("an empty cell still needs its semicolon")


def test_a_number_has_a_decimal_comma_where_semicolons_separate() -> None:
    text = (
        "image_id;target_prompt;alpha;beta;num_channels\r\n"
        "a;old, and wise;1,5;,25;\r\nb;x;-2,5E1;;20,0\r\nc;1,5;1.5;0,1;\r\n"
    )
    got = read(io.BytesIO(text.encode())).to_pylist()
    assert [(r["target_prompt"], r["alpha"], r["beta"], r["num_channels"]) for r in got] == [
        ("old, and wise", 1.5, 0.25, None),
        ("x", -25.0, None, 20),
        ("1,5", 1.5, 0.1, None),
    ]
    for number in ("1.000,5", "2,4,6", "1,"):
        (said,) = messages(io.BytesIO(f"image_id;target_prompt;alpha\na;x;{number}".encode()))
        assert said.startswith(f"row 2, column alpha: got '{number}', expected a finite number")
    (said,) = messages(csv_file((*HEADER, "alpha"), [("a", "x", "1,5")]))
    assert said.startswith("row 2, column alpha: got '1,5', expected a finite number")


@pytest.mark.parametrize("separator", [",", ";"])
def test_the_line_that_tells_excel_the_separator_is_no_row(separator: str) -> None:
    rows = ("sep=", ""), HEADER, ("a", "x"), ("/b", "x")
    text = "\ufeff" + "\r\n".join(separator.join(row) for row in rows)
    (said,) = messages(io.BytesIO(text.encode()))
    assert said.startswith("row 3, column image_id: got '/b'")


def test_a_column_without_a_name_that_is_no_index_of_pandas_is_refused() -> None:
    with pytest.raises(ManifestError) as caught:
        read(io.BytesIO(b",image_id,target_prompt\n0,a,x\n4,b,x\n"))
    assert str(caught.value) == (
        "columns: got '4' in row 3 of a first column without a name, expected 1, as in the index "
        "of pandas; give the column a name, or write the table with index=False"
    )


def test_an_index_of_pandas_with_a_name_of_its_own_is_told_as_such() -> None:
    frame = pd.DataFrame({"image_id": ["a", "b"], "target_prompt": ["x", "y"]}, index=[3, 4])
    sink = io.BytesIO()
    frame.to_parquet(sink)
    sink.seek(0)
    for file in (sink, io.BytesIO(b"Unnamed: 0,image_id,target_prompt\n")):
        with pytest.raises(ManifestError, match="pandas wrote: write the table with index=False"):
            read(file)


def test_given_pair_ids_are_kept_and_missing_ones_computed() -> None:
    rows = [("mine-1", "a", "x"), ("", "b", "x")]
    given_id, computed = read(csv_file(("pair_id", *HEADER), rows))["pair_id"].to_pylist()
    assert given_id == "mine-1"
    assert computed == read(csv_file(HEADER, [("b", "x")]))["pair_id"].to_pylist()[0]


def test_options_come_out_in_one_notation() -> None:
    texts = ['{"steps": 40, "lr": 1}', '{"lr":1.0,"steps":40}']
    rows = [(name, "x", "optimize", text) for name, text in zip("ab", texts, strict=True)]
    got = read(csv_file((*HEADER, "method", "options"), rows))
    assert {*got["options"].to_pylist()} == {'{"lr":1.0,"steps":40}'}


@pytest.mark.parametrize(
    "alpha",
    [
        pa.array([2, 3], pa.uint8()),
        pa.array([2, 3], pa.float16()),
        pa.array([Decimal("2.0"), Decimal("3.0")]),
        pa.array(["2", "3e0"]),
        pa.array(["2", "3"]).dictionary_encode(),
        pa.array(["2", "3"], pa.large_string()),
    ],
    ids=lambda alpha: str(alpha.type),
)
def test_numbers_of_any_type_are_numbers(alpha: pa.Array) -> None:
    file = parquet_file({"image_id": ["a", "b"], "target_prompt": ["x", "y"], "alpha": alpha})
    assert read(file)["alpha"].to_pylist() == [2.0, 3.0]


def _invalid_text() -> pa.Array:
    offsets, content = np.array([0, 2, 3], np.int32), b"\xff\xfeb"
    return pa.Array.from_buffers(pa.utf8(), 2, [None, pa.py_buffer(offsets), pa.py_buffer(content)])


@pytest.mark.parametrize(
    ("column", "cells", "got"),
    [
        ("image_id", pa.array([12.0, 13.0]), "write the name that the table of faces has, as text"),
        ("image_id", pa.array([b"a", b"b"]), "b'a'"),
        ("target_prompt", _invalid_text(), r"b'\xff\xfe'"),
        ("target_prompt", pa.array([["x"], ["y"]]), "['x']"),
        ("target_prompt", pa.array([1.5, 2.5]), "1.5"),
        ("alpha", pa.array([True, False]), "True"),
        ("alpha", pa.array([float("nan"), float("inf")]), "nan"),
        ("alpha", pa.array(["4,0", "\u0664"]), "'4,0'"),
        ("alpha", pa.array([2**62, 2**63 - 1], pa.timestamp("us")), "Timestamp"),
        ("num_channels", pa.array([1.5, 2.5]), "1.5"),
        ("options", pa.array([{"steps": 1}, {"steps": 2}]), "steps"),
    ],
    ids=str,
)
def test_a_wrong_type_is_an_error_of_each_row(column: str, cells: pa.Array, got: str) -> None:
    columns = {"image_id": ["a", "b"], "target_prompt": ["x", "y"], column: cells}
    said = messages(parquet_file(columns))
    assert said[0].startswith(f"row 1, column {column}: got ")
    assert got in said[0]
    assert any(line.startswith("row 2") for line in said) or got in {"1.5", r"b'\xff\xfe'"}


def test_names_that_pandas_took_for_whole_numbers_are_names() -> None:
    numbers = {"pair_id": [7, 8], "image_id": pa.array([0, 1], pa.uint8())}
    got = read(parquet_file({**numbers, "target_prompt": ["x", "y"]})).to_pylist()
    assert [(row["pair_id"], row["image_id"]) for row in got] == [("7", "0"), ("8", "1")]


def test_nulls_are_defaults_where_there_are_some() -> None:
    nothing = pa.nulls(2)
    columns = dict.fromkeys(("neutral_prompt", "method", "alpha", "options", "pair_id"), nothing)
    columns |= {"image_id": pa.array(["a", "b"]), "target_prompt": pa.array(["x", "y"])}
    assert read(parquet_file(columns))["method"].to_pylist() == ["global", "global"]
    columns["target_prompt"] = nothing
    assert len(messages(parquet_file(columns))) == 2


def test_rows_are_numbered_as_in_a_spreadsheet_or_from_one() -> None:
    text = 'image_id,target_prompt\n\n"a","two\nlines"\n\n/b,x\n'
    (csv_message,) = messages(io.BytesIO(text.encode()))
    assert csv_message.startswith("row 5, column image_id: got '/b'")
    (parquet_message,) = messages(
        parquet_file({"image_id": ["a", "/b"], "target_prompt": ["x", "x"]})
    )
    assert parquet_message.startswith("row 2, column image_id")


def test_numbers_run_on_over_batches() -> None:
    count = ROWS_AT_ONCE + 10
    ids = [f"p{row}" for row in range(1, count + 1)]
    ids[-1] = "?"
    (said,) = messages(parquet_file({"image_id": ids, "target_prompt": ["x"] * count}))
    assert said.startswith(f"row {count:,}, ")
    (said,) = messages(csv_file(HEADER, ((name, "x") for name in ids)))
    assert said.startswith(f"row {count + 1:,}, ")


class Counting(io.BytesIO):
    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.taken += len(content)
        return content

    def read1(self, size: int | None = -1, /) -> bytes:
        content = super().read1(size)
        self.taken += len(content)
        return content


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_are_streamed(kind: str) -> None:
    rows = 4 * ROWS_AT_ONCE
    ids = [f"p{row:08d}-{hash(str(row)):020d}" for row in range(rows)]
    columns = {"image_id": ids, "target_prompt": ["x"] * rows}
    sink = io.BytesIO()
    if kind == "csv":
        pa.csv.write_csv(pa.table(columns), sink)
    else:
        pq.write_table(pa.table(columns), sink, row_group_size=ROWS_AT_ONCE)
    file = Counting(sink.getvalue())
    batches = read_edits(file)
    assert len(next(batches)) == ROWS_AT_ONCE
    assert file.taken < len(sink.getvalue()) * 0.6
    assert sum(map(len, batches)) == rows - ROWS_AT_ONCE


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "table: got an empty file, expected CSV in UTF-8 or Parquet; write it again"),
        (b"\n\n", "got an empty file"),
        (b"sep=;\n", "got an empty file"),
        (b"sep=|\nimage_id|target_prompt\n", "got 'sep=|', expected names separated by commas or"),
        (b"image_id,prompt\n", "got 'prompt', expected some of pair_id, image_id, neutral_prompt"),
        (b"image_id,target_promt\n", "did you mean 'target_prompt'?"),
        (b"image_id,target_prompt,size\n", "; rename or remove it"),
        (b"anna,a smiling face\n", "got 'anna', expected some of pair_id, "),
        (b"anna,a smiling face\n", "; is the first row the names of the columns?"),
        (b"image_id,image_id,target_prompt\n", "got image_id twice"),
        (b"image_id,alpha\n", "got image_id, alpha, expected target_prompt among them"),
        (b"image_id\ttarget_prompt\n", "expected names separated by commas or semicolons"),
        (b"image_id;target_prompt,alpha\n", "got 'image_id;target_prompt', expected some of"),
        (b'"image_id,target_prompt\n', "unexpected end of data"),
        (b"image_id,\xb8^2\x9f,target_prompt\n", "header: got bytes that are no text"),
        (b"\x03\x07image_id,target_prompt\n", "header: got bytes that are no text"),
        (b"PK\x03\x04...", "got a spreadsheet or archive"),
        ("image_id".encode("utf-16"), "got UTF-16 text"),
        (b"\x89PNG\r\n\x1a\n", "header: got bytes that are no text"),
        (b"x" * 50_000 + b"\n", "... (50,000 characters), expected some of"),
        (b"PAR1", "damaged Parquet"),
        (b"PAR1" + bytes(1000) + b"PAR1", "damaged Parquet"),
    ],
)
def test_files_that_are_no_manifest(content: bytes, said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        list(read_edits(io.BytesIO(content)))
    assert said in str(caught.value)
    assert caught.value.errors == ()


@pytest.mark.parametrize(
    "row",
    [
        b"b," + b"x" * 300_000 + b"\n",
        b"b" + b"," * 300_000 + b"\n",
        b'b,"x\n",' + b'"\n",' * 100_000,
    ],
    ids=["a long cell", "many cells", "many lines"],
)
def test_a_row_without_end_is_a_mistake(row: bytes) -> None:
    (said,) = messages(io.BytesIO(b"image_id,target_prompt\na,x\n" + row + b"c,x\n"))
    assert said.startswith("row 3: got 'more than 262,144 characters in a row'")


def test_long_rows_come_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_LONGEST_BATCH", 1_000)
    rows = [(f"p{i}", "x" * 200) for i in range(50)]
    sizes = [len(batch.rows) for batch in stream_edits(csv_file(HEADER, rows))]
    assert sum(sizes) == 50
    assert max(sizes) < 10


def test_a_text_that_many_rows_have_is_held_once() -> None:
    rows = 20_000
    places = pa.array(np.zeros(rows, np.int32))
    texts = pa.DictionaryArray.from_arrays(places, ["x" * 200_000])
    ids = [f"p{i}" for i in range(rows)]
    file = parquet_file({"image_id": ids, "target_prompt": texts})
    before = pa.default_memory_pool().max_memory()
    (batch, *_) = stream_edits(file)
    assert {id(cell) for cell in batch.columns["target_prompt"]} == {
        id(batch.columns["target_prompt"][0])
    }
    assert pa.default_memory_pool().max_memory() < max(before, 100_000_000)


def test_a_row_that_names_a_text_that_is_not_there_is_damage() -> None:
    places = pa.array([0, 7], pa.int32())
    texts = pa.DictionaryArray.from_arrays(places, ["x"], safe=False)
    with (
        pytest.raises(ManifestError, match="got a damaged Parquet file"),
        tables._reading_parquet(),
    ):
        tables._values(texts)


def test_what_one_cell_says_of_another_is_escaped() -> None:
    columns = {"image_id": ["a"], "target_prompt": ["x"], "num_channels": [20], "beta": ["a\nb"]}
    assert any(r"expected nothing beside beta 'a\nb'" in m for m in messages(parquet_file(columns)))


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("_MOST_ROWS", "got 2 rows, expected at most 1; split it"),
        ("_LARGEST_COLUMN", "bytes of image_id in row group 0, expected at most 1; write smaller"),
    ],
)
def test_a_parquet_file_that_stands_for_too_much_is_refused(
    limit: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, limit, 1)
    with pytest.raises(ManifestError, match=said):
        list(stream_edits(parquet_file({"image_id": ["a", "b"], "target_prompt": ["x", "y"]})))


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.7])
def test_damage_within_a_manifest_is_found(place: float) -> None:
    sink = io.BytesIO()
    edits = [Edit(f"p{row}-{row**7}", INSTRUCTION) for row in range(2_000)]
    write_edits([edits_batch(edits)], sink)
    content = bytearray(sink.getvalue())
    content[int(place * len(content))] ^= 1
    with pytest.raises(ManifestError, match="damaged"):
        list(read_edits(io.BytesIO(bytes(content))))


def test_errors_of_the_store_are_not_taken_for_damage() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 0:
                raise ConnectionResetError("the store hung up")
            return super().read(size)

    sink = io.BytesIO()
    write_edits([edits_batch([Edit("a", INSTRUCTION)])], sink)
    with pytest.raises(ConnectionResetError):
        list(stream_edits(Failing(sink.getvalue())))


def test_an_empty_text_in_parquet_is_an_empty_cell():
    columns = {
        "image_id": ["anna"],
        "target_prompt": ["old"],
        "neutral_prompt": [""],
        "method": ["global"],
        "mapper_uri": [""],
        "options": [""],
    }
    encoded = columns | {"mapper_uri": pa.array([""]).dictionary_encode()}
    for cells in (columns, encoded):
        (batch,) = read_edits(parquet_file(cells))
        (row,) = batch.to_pylist()
        assert (row["neutral_prompt"], row["mapper_uri"], row["options"]) == ("a face", None, None)
