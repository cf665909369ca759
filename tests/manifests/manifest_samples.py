"""Manifests as files in memory, and the edits that laws are tried on."""

import csv
import io
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from manifests.edits import Edit
from manifests.errors import RowError
from manifests.instructions import Instruction
from manifests.reading import stream_edits
from manifests.tables import RawBatch
from manifests.validation import check_edits


def csv_file(header: Sequence[str], rows: Iterable[Sequence[object]]) -> io.BytesIO:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([header, *rows])
    return io.BytesIO(text.getvalue().encode())


def parquet_file(columns: Mapping[str, object]) -> io.BytesIO:
    sink = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), sink)
    sink.seek(0)
    return sink


def mistakes(
    batches: Iterable[RawBatch], known: Container[str] | None = None
) -> Iterator[RowError]:
    for checked in check_edits(batches, known):
        yield from checked.errors


def messages(file: io.BytesIO, known: Container[str] | None = None) -> list[str]:
    return [str(error) for error in mistakes(stream_edits(file), known)]


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True)
PROMPTS = st.text(min_size=1, max_size=30).filter(str.strip)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SETTINGS = st.one_of(
    st.fixed_dictionaries(
        {}, optional={"alpha": NUMBERS, "num_channels": st.integers(1, 2**31 - 1)}
    ),
    st.fixed_dictionaries({"alpha": NUMBERS, "beta": st.floats(0, 1)}),
    st.fixed_dictionaries(
        {"alpha": NUMBERS, "method": st.just("mapper"), "mapper_uri": st.just("s3://bucket/m")}
    ),
    st.fixed_dictionaries(
        {"alpha": NUMBERS, "method": st.just("optimize")},
        optional={"options": st.sampled_from(['{"steps": 40}', '{"lr": 1, "mode": "best"}'])},
    ),
)


@st.composite
def instructions(draw: st.DrawFn) -> Instruction:
    texts = st.tuples(PROMPTS, PROMPTS)
    neutral, target = draw(texts.filter(lambda pair: pair[0].split() != pair[1].split()))
    settings = {"alpha": 4.0, **draw(SETTINGS)}
    return Instruction(target_prompt=target, neutral_prompt=neutral, **settings)


EDITS_DRAWN = st.builds(Edit, NAMES, instructions())
