import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.building import (
    ROW_GROUP,
    build_edits,
    instructions,
    read_instructions,
    regroup,
    write_edits,
)
from manifests.edits import Edit, edits_batch
from manifests.errors import EditError, ManifestError
from manifests.instructions import Instruction
from manifests.reading import read_edits
from manifests.schemas import EDITS

from manifest_samples import EDITS_DRAWN, NAMES, csv_file, parquet_file

SMILE = Instruction(target_prompt="a smiling face", alpha=4.0)


def table_of(*columns: str) -> io.BytesIO:
    return csv_file(columns, ())


@given(
    st.lists(NAMES, max_size=6, unique=True),
    st.lists(st.sampled_from(["an old face", "a hat", "<b>"]), min_size=1, unique=True),
    st.lists(st.floats(-9, 9), unique=True, max_size=4),
)
@settings(deadline=None, max_examples=40)
def test_every_image_gets_every_prompt_at_every_strength(
    images: list[str], prompts: list[str], alphas: list[float]
) -> None:
    rows = [
        row
        for batch in build_edits(images, instructions(prompts, alphas, num_channels=5))
        for row in batch.to_pylist()
    ]
    wanted = [(i, p, a) for i in images for p in prompts for a in alphas or [4.0]]
    assert [(r["image_id"], r["target_prompt"], r["alpha"]) for r in rows] == wanted
    assert len({row["pair_id"] for row in rows}) == len(wanted)
    assert {row["num_channels"] for row in rows} <= {5}


def test_batches_are_streamed_and_of_an_even_size() -> None:
    taken = 0

    def images() -> Iterator[str]:
        nonlocal taken
        for number in range(10_000):
            taken += 1
            yield f"p{number}"

    batches = build_edits(images(), instructions(["a", "b", "c"], [1, 2, 3]))
    sizes = [len(batch) for batch in islice(batches, 2)]
    assert taken < 8_000
    assert all(ROW_GROUP / 2 < size <= ROW_GROUP for size in sizes)
    assert sum(sizes) + sum(map(len, batches)) == 90_000


def test_more_prompts_than_a_batch_holds() -> None:
    asked = instructions(["x"], range(ROW_GROUP + 5))
    assert [len(batch) for batch in build_edits(["a", "b"], asked)] == [ROW_GROUP, 5, ROW_GROUP, 5]


def test_what_is_built_is_valid_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    built = [*build_edits(("p1", "p2"), instructions(["x", "y"], [1, 2], method="mapper"))]
    with path.open("wb") as file:
        assert write_edits(built, file) == 8
    with path.open("rb") as file:
        assert pa.Table.from_batches(read_edits(file)).equals(pa.Table.from_batches(built))


@pytest.mark.parametrize(
    ("images", "prompts", "said"),
    [
        (["a"], [], "prompts: got none"),
        (["a"], [SMILE, SMILE], "prompts: got one twice"),
        (["a", "b", "a"], [SMILE], "image_ids: got 'a' at 1 and 3, expected each image once"),
        (["a/b"], [SMILE], "column image_id: got 'a/b'"),
    ],
)
def test_what_cannot_be_built(images: list[str], prompts: list[Instruction], said: str) -> None:
    with pytest.raises((ManifestError, EditError)) as caught:
        list(build_edits(images, prompts))
    assert said in str(caught.value)


def test_simple_values_are_checked() -> None:
    with pytest.raises(EditError, match="beta"):
        instructions(["x"], beta=3)
    with pytest.raises(EditError, match="alpha"):
        instructions(["x"], [float("nan")])


def test_a_prompt_table_may_hold_several_strengths_in_a_cell() -> None:
    rows = [
        ("a hat", "", "2; 4;6", "20"),
        ("a beard", "mapper", "", ""),
        ("a\nbeard", "optimize", "1", ""),
    ]
    asked = read_instructions(csv_file(("target_prompt", "method", "alpha", "num_channels"), rows))
    assert [(a.target_prompt, a.method, a.alpha, a.num_channels) for a in asked] == [
        ("a hat", "global", 2.0, 20),
        ("a hat", "global", 4.0, 20),
        ("a hat", "global", 6.0, 20),
        ("a beard", "mapper", 1.0, None),
        ("a beard", "optimize", 1.0, None),
    ]


def test_a_prompt_table_may_be_parquet() -> None:
    file = parquet_file({"target_prompt": ["x", "y"], "alpha": ["1;2", None], "beta": [0.1, None]})
    asked = read_instructions(file)
    assert [(a.target_prompt, a.alpha, a.beta) for a in asked] == [
        ("x", 1.0, 0.1),
        ("x", 2.0, 0.1),
        ("y", 4.0, None),
    ]


def test_strengths_of_a_cell_have_decimal_commas_where_semicolons_separate() -> None:
    asked = read_instructions(io.BytesIO(b'target_prompt;alpha\nx;"1,5; 2,5"\n'))
    assert [one.alpha for one in asked] == [1.5, 2.5]


def test_mistakes_in_a_prompt_table_have_their_row_numbers() -> None:
    rows = [("x", "1;;2"), ("y", "2;x"), ("z", "2;2"), ("w", ""), ("w", "4"), ("v", "2", "3")]
    rows += [("u", "4;8"), ("u", "4;8")]
    with pytest.raises(ManifestError) as caught:
        read_instructions(csv_file(("target_prompt", "alpha"), rows))
    assert [str(error) for error in caught.value.errors] == [
        "row 2, column alpha: got '', expected a finite number; "
        "write 4.0, or 2;4 in a table of prompts",
        "row 3, column alpha: got 'x', expected a finite number; "
        "write 4.0, or 2;4 in a table of prompts",
        "row 4, column alpha: got 2.0, expected each strength once; remove one",
        "row 6, column target_prompt: got 'w', expected another prompt or strength than in row 5; "
        "remove a row",
        "row 7: got 3, expected 2 cells as in the header; put a cell that holds a comma in quotes",
        "row 9, column target_prompt: got 'u', expected another prompt or strength than in row 8; "
        "remove a row",
    ]


def test_a_prompt_table_without_rows_or_with_images_is_none() -> None:
    with pytest.raises(ManifestError, match="got no rows"):
        read_instructions(table_of("target_prompt"))
    with pytest.raises(ManifestError, match="got 'image_id'"):
        read_instructions(table_of("target_prompt", "image_id"))


@given(st.lists(EDITS_DRAWN, max_size=12), st.integers(1, 5), st.integers(1, 5))
@settings(deadline=None, max_examples=40)
def test_regrouping_keeps_rows_and_order(edits: list[Edit], size: int, batch: int) -> None:
    batches = [edits_batch(edits[at : at + batch]) for at in range(0, len(edits), batch)]
    tables = [*regroup(batches, size)]
    assert all(len(table) == size for table in tables[:-1])
    whole = pa.concat_tables([EDITS.empty_table(), *tables])
    assert whole.equals(pa.concat_tables([EDITS.empty_table(), *map(_table, batches)]))


def _table(batch: pa.RecordBatch) -> pa.Table:
    return pa.Table.from_batches([batch])


def test_equal_rows_give_equal_bytes_and_even_row_groups() -> None:
    asked = instructions(["x", "y"], [1, 2, 3])
    (rows,) = [
        pa.Table.from_batches(build_edits((f"p{n}" for n in range(12_000)), asked)).combine_chunks()
    ]
    contents = []
    for size in (100_000, 1_000, 7_777):
        sink = io.BytesIO()
        assert write_edits(rows.to_batches(size), sink) == 72_000
        contents.append(sink.getvalue())
    assert contents[0] == contents[1] == contents[2]
    metadata = pq.ParquetFile(io.BytesIO(contents[0])).metadata
    sizes = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
    assert sizes == [ROW_GROUP, ROW_GROUP, 72_000 - 2 * ROW_GROUP]


def test_an_interrupted_writing_leaves_no_readable_manifest() -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield from build_edits((f"p{n}" for n in range(ROW_GROUP)), [SMILE])
        raise KeyboardInterrupt

    sink = io.BytesIO()
    with pytest.raises(KeyboardInterrupt):
        write_edits(batches(), sink)
    sink.seek(0)
    with pytest.raises(ManifestError, match="damaged"):
        list(read_edits(sink))


def test_an_empty_manifest_has_its_columns() -> None:
    sink = io.BytesIO()
    assert write_edits([], sink) == 0
    sink.seek(0)
    assert pq.read_schema(sink).equals(EDITS)
