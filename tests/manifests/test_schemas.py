from typing import get_args

import pyarrow as pa
import pytest

from manifests.schemas import (
    EDITS,
    FACE_STATUSES,
    FACES,
    MAPPER_LOG,
    METRICS,
    RESULT_STATUSES,
    RESULTS,
    FaceStatus,
    ResultStatus,
)
from styleclip_ops.mapper_training import MapperLoss
from styleclip_ops.metrics import EditMetrics


def test_metrics_are_those_of_the_ops() -> None:
    assert EditMetrics._fields == METRICS
    assert {*MapperLoss._fields} - {"total"} < {*MAPPER_LOG.names}


def test_a_result_row_begins_with_its_manifest_row() -> None:
    assert RESULTS.names[: len(EDITS)] == EDITS.names
    assert {*METRICS} < {*RESULTS.names}
    assert all(RESULTS.field(name).nullable for name in METRICS)


def test_statuses_are_documented_in_the_tables() -> None:
    assert get_args(FaceStatus) == FACE_STATUSES
    assert get_args(ResultStatus) == RESULT_STATUSES
    for schema, statuses in ((FACES, FACE_STATUSES), (RESULTS, RESULT_STATUSES)):
        description = schema.field("status").metadata[b"description"].decode()
        assert ", ".join(statuses) in description


@pytest.mark.parametrize("schema", [FACES, EDITS, RESULTS, MAPPER_LOG])
def test_every_column_says_what_it_holds(schema: pa.Schema) -> None:
    for field in schema:
        description = field.metadata[b"description"].decode()
        assert description.endswith(".")
        assert "\n" not in description


def test_a_photograph_without_a_face_and_an_edit_without_a_latent_are_rows() -> None:
    face = dict.fromkeys(FACES.names) | {
        "image_id": "a",
        "source_uri": "a.jpg",
        "status": "no_face",
    }
    pa.Table.from_pylist([face]).cast(FACES)
    edit = dict.fromkeys(RESULTS.names) | dict.fromkeys(EDITS.names[:5], "x") | {"alpha": 1.0}
    edit |= {"status": "no_latent", "generator_fingerprint": "g", "code_version": "1", "shard": 0}
    pa.Table.from_pylist([edit]).cast(RESULTS)
    with pytest.raises(ValueError, match="target_prompt"):
        pa.Table.from_pylist([edit | {"target_prompt": None}]).cast(RESULTS)
