"""The result rows of a run as a report keeps them: about 165 bytes each, however long their texts.

Texts are codes of a column's different values. What only the shown rows need, such as pictures and
errors, is read again for those.
"""

import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manifests.schemas import RESULTS
from tasks.evaluation import SCORES, SHARES, Criteria, score_rows
from tasks.ledger import Ledger
from tasks.storage import Folder

_NUMBERS = ("alpha", "beta", "num_channels", "seconds", *SCORES)
_TEXTS = (
    *("image_id", "target_prompt", "neutral_prompt", "method", "status", "mapper_uri", "options"),
    *(f"{role}_fingerprint" for role in ("generator", "encoder", "clip", "judge", "identity")),
)
_SHOWN = ("pair_id", "error", "output_uri", "output_sha256")
_SCORED = pa.schema([*RESULTS, *(pa.field(name, pa.float64()) for name in SHARES)])
_ROW_GROUP = 32_768


def collect_rows(
    results: Iterable[pa.Table], criteria: Criteria, folder: Folder, name: str
) -> pd.DataFrame:
    """Score the rows of a run, and write them with their shares as a Parquet file.

    Args:
        results: Tables of the schema RESULTS.
        criteria: What counts as a success.
        folder: Where the file goes.
        name: Of the file.

    Returns:
        The columns of `score_rows` that a report works with. Those of texts are categories, and
        pair_id is a 64-bit hash.
    """
    columns = _Columns()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, name)
        with pq.ParquetWriter(path, _SCORED, compression="zstd") as writer:
            for table in _row_groups(results):
                rows = score_rows(table, criteria)
                for share in SHARES:
                    values = pa.array(rows[share], pa.float64(), from_pandas=True)
                    table = table.append_column(share, values)
                writer.write_table(table.cast(_SCORED))
                columns.add(rows)
        folder.take_in(name, path)
    return columns.frame()


def read_shown(ledger: Ledger, shards: Collection[int], rows: pd.DataFrame) -> pd.DataFrame:
    """Give rows of `collect_rows` back their own texts, and what only shown rows need.

    Args:
        ledger: Of the run.
        shards: Those that were collected.
        rows: Some of the rows, by ascending index.
    """
    parts, start, places = list[pd.DataFrame](), 0, rows.index.to_numpy()
    for table in ledger.results(shards):
        inside = places[(places >= start) & (places < start + len(table))]
        parts.append(table.select(_SHOWN).take(inside - start).to_pandas())
        start += len(table)
    texts = pd.concat(parts) if parts else pd.DataFrame(columns=_SHOWN)
    shown = rows.astype(dict.fromkeys(_TEXTS, object))
    return shown.assign(**{name: texts[name].to_numpy() for name in _SHOWN})


class _Columns:
    """Columns that grow part by part."""

    def __init__(self) -> None:
        self._numbers: dict[str, list[NDArray[np.float64]]] = {name: [] for name in _NUMBERS}
        self._codes: dict[str, list[NDArray[np.int32]]] = {name: [] for name in _TEXTS}
        self._values: dict[str, dict[str, int]] = {name: {} for name in _TEXTS}
        self._pairs = list[NDArray[np.uint64]]()

    def add(self, rows: pd.DataFrame) -> None:
        for name, numbers in self._numbers.items():
            numbers.append(rows[name].to_numpy(np.float64, na_value=np.nan))
        for name, codes in self._codes.items():
            own, values = pd.factorize(rows[name])
            known = self._values[name]
            places = [known.setdefault(value, len(known)) for value in values]
            # A missing value has the code -1, which takes the last place.
            codes.append(np.array([*places, -1], np.int32)[own])
        texts = rows["pair_id"].to_numpy(object)
        self._pairs.append(pd.util.hash_array(texts, categorize=False))

    def frame(self) -> pd.DataFrame:
        columns: dict[str, object] = {"pair_id": _joined(self._pairs, np.uint64)}
        for name, codes in self._codes.items():
            values = pd.Index([*self._values[name]], dtype=object)
            columns[name] = pd.Categorical.from_codes(_joined(codes, np.int32), values)
        for name, numbers in self._numbers.items():
            columns[name] = _joined(numbers, np.float64)
        return pd.DataFrame(columns, copy=False)


def _joined(parts: list[Any], kind: type) -> Any:
    """Join the parts of a column, and let go of them."""
    joined = np.concatenate([*parts, np.zeros(0, kind)])
    parts.clear()
    return joined


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables of about as many rows as a row group; many small ones would make a large footer."""
    waiting, count = list[pa.Table](), 0
    for table in tables:
        waiting.append(table)
        count += len(table)
        if count >= _ROW_GROUP:
            yield pa.concat_tables(waiting)
            waiting, count = [], 0
    if count:
        yield pa.concat_tables(waiting)
