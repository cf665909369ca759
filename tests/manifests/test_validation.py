import io
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.edits import pair_id
from manifests.errors import ManifestError, require_no_errors, shown
from manifests.reading import read_edits, stream_edits
from manifests.tables import RawBatch
from manifests.validation import check_edits

from manifest_samples import csv_file, messages, mistakes, parquet_file

HERE = Path(__file__).parent
HEADER = ("image_id", "target_prompt")
CELLS = st.one_of(
    st.none(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.dates(),
    st.decimals(allow_nan=False),
    st.sampled_from(["global", "mapper", "optimize", "{}", '{"steps": 1}', "4", "1e999", "../a"]),
)


def test_a_manifest_with_all_kinds_of_mistakes_and_the_messages_it_gets() -> None:
    with (HERE / "mistakes.csv").open("rb") as file:
        said = messages(file, {"person-1", "person-2"})
    assert said == (HERE / "mistakes.txt").read_text(encoding="utf-8").splitlines()


def test_the_error_has_the_first_mistakes_and_counts_all() -> None:
    rows = [(f"p{row}", "x", "fourr" if row % 2 else "4") for row in range(100)]
    batches = read_edits(csv_file((*HEADER, "alpha"), rows))
    with pytest.raises(ManifestError) as caught:
        list(batches)
    error = caught.value
    assert (error.count, len(error.errors)) == (50, 20)
    assert error.errors[0].row == 3
    assert len(str(error).splitlines()) == 21
    assert str(error).startswith("manifest: got 50 mistakes, expected none")


def test_nothing_of_a_batch_with_a_mistake_is_read() -> None:
    count = 40_000
    alphas = ["4"] * count
    alphas[20_000] = "x"
    columns = {"image_id": [f"p{n}" for n in range(count)], "target_prompt": ["x"] * count}
    batches = read_edits(parquet_file({**columns, "alpha": alphas}))
    assert next(batches)["image_id"].to_pylist()[0] == "p0"
    with pytest.raises(ManifestError, match=r"row 20,001, column alpha: got 'x'"):
        next(batches)


def test_all_mistakes_of_a_row_are_named() -> None:
    said = messages(csv_file((*HEADER, "alpha", "method"), [("/a", "", "x", "y")]))
    assert [line.split(":")[0] for line in said] == [
        "row 2, column image_id",
        "row 2, column target_prompt",
        "row 2, column alpha",
        "row 2, column method",
    ]


def test_a_repeated_id_is_found_far_away_and_names_its_first_row() -> None:
    count = 70_000
    names = [f"p{row}" for row in range(count)]
    names[-1] = names[0]
    (said,) = messages(parquet_file({"image_id": names, "target_prompt": ["x"] * count}))
    assert said.startswith("row 70,000, column target_prompt: got 'x', expected another edit than ")
    assert "that of row 1;" in said


def test_usable_rows_have_an_edit_and_an_id_each() -> None:
    rows = [
        ("../x", "a", "x"),
        ("", "b", "y"),
        ("one", "/c", "x"),
        ("one", "d", "x"),
        ("z", "e", "x"),
    ]
    file = csv_file(("pair_id", *HEADER), rows)
    (checked,) = check_edits(stream_edits(file))
    assert [edit.image_id for edit in checked.edits] == ["b", "e"]
    assert checked.pair_ids == [pair_id(checked.edits[0]), "z"]
    assert [error.row for error in checked.errors] == [2, 4, 5]


def test_two_ids_for_one_edit_are_the_users_choice() -> None:
    rows = [("one", "a", "x"), ("two", "a", "x")]
    assert messages(csv_file(("pair_id", *HEADER), rows)) == []
    rows = [("one", "a", "x"), ("one", "b", "y")]
    (said,) = messages(csv_file(("pair_id", *HEADER), rows))
    assert "give each row its own" in said


@pytest.mark.parametrize("name", ["../x", "/x", "a b", "x" * 121, ".."])
def test_pair_ids_are_names(name: str) -> None:
    (said,) = messages(csv_file(("pair_id", *HEADER), [(name, "a", "x")]))
    assert said.startswith("row 2, column pair_id: got")


class Everything:
    """A container that cannot be iterated over."""

    def __contains__(self, name: object) -> bool:
        return name != "b"


def test_known_images_may_be_any_container() -> None:
    file = csv_file(HEADER, [("a", "x"), ("b", "x")])
    (said,) = messages(file, Everything())
    assert "got 'b', expected an aligned or imported face; align and invert" in said


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (" anna ", "anna"),
        ("ANNA", "anna"),
        ("\tAnna", "anna"),
        ("12", "00012"),
        ("0", "00000"),
        ("P1", "p1"),
        (" ana", "anna"),
    ],
)
def test_the_id_that_a_changed_one_was_is_suggested(written: str, meant: str) -> None:
    (said,) = messages(csv_file(HEADER, [(written, "x")]), {"anna", "00012", "p1", "00000"})
    assert said.endswith(f"; did you mean {meant!r}?")


def test_for_blanks_alone_no_id_is_suggested() -> None:
    (said,) = messages(csv_file(HEADER, [("  ", "x")]), {"00000"})
    assert "did you mean" not in said


def test_blanks_around_an_id_are_told_where_no_ids_are_known() -> None:
    (said,) = messages(csv_file(HEADER, [(" anna", "x")]))
    assert said.endswith("; write the name that the table of faces has, without blanks around it")


def test_only_the_first_unknown_images_are_compared() -> None:
    class Counting(set[str]):
        passes = 0

        def __iter__(self) -> Iterator[str]:
            Counting.passes += 1
            return super().__iter__()

    known = Counting({"person-1"})
    said = messages(csv_file(HEADER, ((f"Person-{n}", "x") for n in range(500))), known)
    assert len(said) == 500
    assert "did you mean 'person-1'?" in said[1]
    assert Counting.passes <= 20


def test_messages_are_one_short_line_whatever_was_got() -> None:
    prompts = ["\n\r\u2028\u202e" * 500, "\U0001f600" * 1_001]
    for line in messages(csv_file(HEADER, [("a", prompt) for prompt in prompts])):
        assert len(line) < 500
        assert len(line.splitlines()) == 1
        assert "\u202e" not in line


@given(
    st.dictionaries(
        st.sampled_from(["alpha", "beta", "num_channels", "method", "options", "mapper_uri"]),
        st.lists(CELLS, min_size=3, max_size=3),
    ),
    st.lists(CELLS, min_size=3, max_size=3),
    st.lists(CELLS, min_size=3, max_size=3),
)
@settings(deadline=None, max_examples=60)
def test_no_cell_makes_it_crash(
    others: dict[str, list[object]], images: list[object], prompts: list[object]
) -> None:
    columns = {**others, "image_id": images, "target_prompt": prompts}
    errors = [*mistakes([RawBatch(range(1, 4), columns)])]
    assert errors == sorted(errors, key=lambda error: error.row)
    for error in errors:
        assert error.row in range(1, 4)
        assert str(error).startswith(f"row {error.row}, column {error.column}: got ")
        assert error.remedy


@given(st.sampled_from([b"", b"image_id,target_prompt\n"]), st.binary(max_size=200))
@settings(deadline=None)
def test_no_bytes_make_it_crash(start: bytes, content: bytes) -> None:
    with suppress(ManifestError):
        for error in mistakes(stream_edits(io.BytesIO(start + content))):
            assert str(error).startswith(f"row {error.row}")


def test_no_mistakes_raise_nothing() -> None:
    require_no_errors(iter(()))
    assert messages(csv_file(HEADER, [("a", "x")])) == []


def test_no_rows_are_no_manifest() -> None:
    columns = {name: pa.array([], pa.string()) for name in HEADER}
    for file in (csv_file(HEADER, []), parquet_file(columns)):
        with pytest.raises(ManifestError, match="manifest: got no rows, expected at least one"):
            messages(file)


def test_bytes_that_are_no_text_are_shown_as_bytes():
    assert shown(b"l\xe4chelndes".decode(errors="surrogateescape")) == r"'l\xe4chelndes'"
    assert shown("lächelndes") == "'lächelndes'"
