import hashlib
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.cells import read_instruction
from manifests.edits import Edit, edits_batch, pair_id
from manifests.errors import EditError
from manifests.instructions import Instruction
from manifests.schemas import EDITS

from manifest_samples import EDITS_DRAWN, NAMES

SMILE = Instruction(target_prompt="a smiling face", alpha=4.0)


def test_the_pair_id_is_the_digest_of_canonical_json() -> None:
    content = (
        '["person-1",{"alpha":4.0,"method":"optimize","neutral_prompt":"a face",'
        '"options":{"lr":1.0,"steps":40},"target_prompt":"\u00e4 \\"smile\\" \U0001f600"}]'
    )
    instruction = Instruction(
        target_prompt='\u00e4 "smile"\n\U0001f600',
        alpha=4,
        method="optimize",
        options='{"steps": 40, "lr": 1}',
    )
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    assert pair_id(Edit("person-1", instruction)) == digest


@given(EDITS_DRAWN, EDITS_DRAWN)
@settings(deadline=None, max_examples=40)
def test_equal_content_and_only_that_gives_equal_ids(one: Edit, other: Edit) -> None:
    assert (pair_id(one) == pair_id(other)) == (one == other)
    instruction = replace(one.instruction)
    assert pair_id(Edit(one.image_id, instruction)) == pair_id(one)


@given(EDITS_DRAWN, NAMES, st.floats(-9, 9))
@settings(deadline=None, max_examples=40)
def test_each_value_is_content(edit: Edit, name: str, alpha: float) -> None:
    asked = edit.instruction
    assert (pair_id(Edit(name, asked)) == pair_id(edit)) == (name == edit.image_id)
    other = Edit(edit.image_id, replace(asked, alpha=alpha))
    assert (pair_id(other) == pair_id(edit)) == (alpha == asked.alpha)


def test_notation_is_not_content() -> None:
    assert pair_id(Edit("a", SMILE)) == pair_id(Edit("a", replace(SMILE, alpha=4)))
    zero, minus = replace(SMILE, alpha=0.0), replace(SMILE, alpha=-0.0)
    assert pair_id(Edit("a", zero)) == pair_id(Edit("a", minus))
    assert pair_id(Edit("a", SMILE)) == pair_id(Edit("a", replace(SMILE, options="{ }")))


def test_every_column_but_the_names_is_content() -> None:
    given = {"num_channels": 7, "beta": 0.2, "alpha": 5.0}
    given |= {"target_prompt": "an old face", "neutral_prompt": "a person"}
    for name, value in given.items():
        assert pair_id(Edit("a", replace(SMILE, **{name: value}))) != pair_id(Edit("a", SMILE))
    mapper = replace(SMILE, method="mapper")
    assert pair_id(Edit("a", mapper)) != pair_id(Edit("a", SMILE))
    assert pair_id(Edit("a", replace(mapper, mapper_uri="m"))) != pair_id(Edit("a", mapper))


def test_defaults_depend_on_the_method() -> None:
    asked = [read_instruction({"target_prompt": "x", "method": m}) for m in (None, "mapper")]
    assert [(a.method, a.alpha, a.neutral_prompt) for a in asked] == [
        ("global", 4.0, "a face"),
        ("mapper", 1.0, "a face"),
    ]
    assert read_instruction({"target_prompt": "x", "method": "optimize"}).alpha == 1.0


@pytest.mark.parametrize(
    "values",
    [
        {"alpha": 0.0},
        {"alpha": -3.5},
        {"beta": 0.0},
        {"target_prompt": '<b>"bold"</b> &\n\t\u202eabc \U0001f600 \u05e9\u05dc\u05d5'},
        {"target_prompt": "x" * 1_000},
        {"num_channels": 2**31 - 1},
    ],
)
def test_what_is_legal(values: dict[str, object]) -> None:
    instruction = replace(SMILE, **values)  # type: ignore[arg-type]
    batch = edits_batch([Edit("a", instruction)])
    batch.validate(full=True)
    assert batch.schema.equals(EDITS, check_metadata=True)


@pytest.mark.parametrize(
    ("values", "column"),
    [
        ({"target_prompt": " \n"}, "target_prompt"),
        ({"target_prompt": "x" * 1_001}, "target_prompt"),
        ({"target_prompt": "a face"}, "target_prompt"),
        ({"target_prompt": "\udcff"}, "target_prompt"),
        ({"neutral_prompt": ""}, "neutral_prompt"),
        ({"neutral_prompt": 3}, "neutral_prompt"),
        ({"alpha": math.nan}, "alpha"),
        ({"alpha": -math.inf}, "alpha"),
        ({"alpha": 10**400}, "alpha"),
        ({"alpha": True}, "alpha"),
        ({"alpha": "4"}, "alpha"),
        ({"beta": -0.1}, "beta"),
        ({"beta": 1.1}, "beta"),
        ({"num_channels": 0}, "num_channels"),
        ({"num_channels": 1.5}, "num_channels"),
        ({"num_channels": 2**31}, "num_channels"),
        ({"num_channels": 2, "beta": 0.1}, "num_channels"),
        ({"method": "Global"}, "method"),
        ({"method": "optimize", "beta": 0.1}, "beta"),
        ({"method": "mapper", "num_channels": 1}, "num_channels"),
        ({"mapper_uri": "s3://b/m"}, "mapper_uri"),
        ({"method": "mapper", "mapper_uri": " "}, "mapper_uri"),
        ({"method": "mapper", "mapper_uri": "m" * 2_001}, "mapper_uri"),
        ({"method": "mapper", "mapper_uri": "m", "options": '{"steps": 2}'}, "options"),
        ({"options": "{"}, "options"),
    ],
)
def test_what_is_not_legal(values: dict[str, object], column: str) -> None:
    with pytest.raises(EditError) as caught:
        replace(SMILE, **values)  # type: ignore[arg-type]
    assert [mistake.column for mistake in caught.value.mistakes] == [column]


@pytest.mark.parametrize("method", ["mapper", "global"])
def test_a_password_is_refused_and_not_repeated(method: str) -> None:
    with pytest.raises(EditError, match="password") as caught:
        replace(SMILE, method=method, mapper_uri="s3://key:hunter2@bucket/m")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", "../a", "a/b", "a\\b", ".a", "/a", "a" * 121, "a\n", "\u00e4", 3]
)
def test_image_ids_are_names(name: str) -> None:
    with pytest.raises(EditError, match="column image_id"):
        Edit(name, SMILE)
