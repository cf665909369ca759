import json
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.options import OPTIONS, OptionsError, options_text, read_options
from styleclip_ops.mapper_training import MapperLossConfig
from styleclip_ops.optimize import OptimizeConfig


def test_options_are_those_that_the_ops_take() -> None:
    of_the_editor = {"space", "start"}
    assert {*OPTIONS["optimize"]} == {
        field.name for field in fields(OptimizeConfig)
    } | of_the_editor
    assert {field.name for field in fields(MapperLossConfig)} < {*OPTIONS["mapper"]}


def test_mapper_options_are_those_of_its_training() -> None:
    from tasks.mappers import MapperConfig

    assert {*OPTIONS["mapper"]} == {field.name for field in fields(MapperConfig)}


def test_numbers_take_the_type_of_their_option() -> None:
    values = read_options("optimize", '{"steps": 40, "lr": 1}')
    assert values == {"steps": 40, "lr": 1.0}
    assert [type(value) for value in values.values()] == [int, float]
    OptimizeConfig(**values)  # type: ignore[arg-type]


@given(st.permutations([("steps", 40), ("lr", 0.1), ("mode", "best"), ("space", "style")]))
@settings(deadline=None, max_examples=40)
def test_text_does_not_depend_on_order_or_spaces(pairs: list[tuple[str, object]]) -> None:
    text = options_text(read_options("optimize", json.dumps(dict(pairs), indent=3)))
    assert text == '{"lr":0.1,"mode":"best","space":"style","steps":40}'
    assert read_options("optimize", text) == dict(pairs)


def test_no_options_are_no_text() -> None:
    assert options_text(read_options("global", None)) is None
    assert options_text(read_options("global", " {} ")) is None


@pytest.mark.parametrize(
    ("method", "text", "said"),
    [
        ("optimize", '{"step": 4}', "did you mean 'steps'?"),
        ("optimize", '{"coarse": true}', "an option of method optimize (steps, lr,"),
        ("global", '{"steps": 4}', "no options for method global; remove it"),
        ("optimize", '{"steps": 0}', "steps to be a whole number from 1 to 1,000,000"),
        ("optimize", '{"steps": 4.5}', "a whole number"),
        ("optimize", '{"steps": true}', "a whole number"),
        ("optimize", '{"lr": 0}', "a number above 0"),
        ("optimize", '{"lr": NaN}', "NaN is not JSON"),
        ("optimize", '{"lr": 1e999}', "a number above 0"),
        ("optimize", '{"lr": 1' + "0" * 400 + "}", "a number above 0"),
        ("optimize", '{"steps": 1' + "0" * 5_000 + "}", "a JSON object"),
        ("optimize", '{"l2_lambda": -1}', "0 or more"),
        ("optimize", '{"mode": "worst"}', '"best" or "published"'),
        ("mapper", '{"coarse": 1}', "true or false"),
        ("mapper", '{"truncation_psi": 2}', "from 0 to 1"),
        ("mapper", '{"coarse": false, "medium": false, "fine": false}', "at least one of coarse"),
        ("mapper", '{"steps": 1, "steps": 2}', "each option once"),
        ("mapper", "{steps: 1}", "a JSON object"),
        ("mapper", "[1]", "a JSON object"),
        ("mapper", "", "a JSON object"),
        ("mapper", '{"a":' * 1_500 + "1" + "}" * 1_500, "too deep"),
        ("mapper", " " * 10_001, "at most 10,000 characters"),
        ("mapper", {"steps": 1}, "a JSON object as text"),
    ],
)
def test_mistakes_are_named(method: str, text: object, said: str) -> None:
    with pytest.raises(OptionsError) as caught:
        read_options(method, text)  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400
