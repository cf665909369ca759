"""The result rows of a run as a report keeps them: 9 bytes a row in memory, the numbers in a file.

Of a row, memory holds which face, which setting and which status it has. Numbers are read from the
file one column at a time; what only the shown rows need, such as pictures and errors, is read for
those.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manifests.schemas import METRICS, RESULTS
from tasks.report.scoring import DERIVED, Criteria, score_rows

# What many rows have in common.
FINGERPRINTS = ("generator", "encoder", "clip", "judge", "identity")
SETTINGS = (
    *("target_prompt", "neutral_prompt", "method", "alpha", "beta", "num_channels", "mapper_uri"),
    *("options", *(f"{role}_fingerprint" for role in FINGERPRINTS)),
)
_NUMBERS = ("seconds", "clip_cosine_inversion", *METRICS, *DERIVED)
_SHOWN = ("pair_id", "error", "output_uri", "output_sha256")
_SCORED = pa.schema([*RESULTS, *(pa.field(name, pa.float64()) for name in DERIVED)])
_ROW_GROUP, _GROUP_BYTES = 32_768, 64 << 20

Codes = NDArray[np.int32]


class Rows:
    """The rows of a run.

    Args:
        path: Parquet file of the schema RESULTS with the derived scores.
        settings: The different settings: columns `SETTINGS`.
        faces: The different image ids.
        statuses: The different statuses.
        setting: [N] place of each row's setting.
        face: [N] place of each row's image id.
        status: [N] place of each row's status.
        repeated: Rows whose pair id an earlier row has.
    """

    def __init__(
        self,
        path: Path,
        settings: pd.DataFrame,
        faces: Sequence[str],
        statuses: Sequence[str],
        setting: Codes,
        face: Codes,
        status: NDArray[np.int8],
        repeated: int,
    ) -> None:
        self.path, self.settings, self.faces, self.statuses = path, settings, faces, statuses
        self.setting, self.face, self.status, self.repeated = setting, face, status, repeated

    def __len__(self) -> int:
        return len(self.setting)

    @property
    def ok(self) -> NDArray[np.bool_]:
        """[N] whether the status is ok."""
        return np.array([status == "ok" for status in self.statuses], bool)[self.status]

    def unchanged(self) -> NDArray[np.bool_]:
        """Return [N] which edits changed nothing at all, and so have no direction."""
        directional, success = self.column("directional_edit"), self.column("success")
        found: NDArray[np.bool_] = np.isnan(directional) & (success == 0)
        return found

    def count_statuses(self, places: NDArray[np.integer] | slice = slice(None)) -> dict[str, int]:
        """Count rows by status, the most frequent first."""
        counts = np.bincount(self.status[places], minlength=len(self.statuses))
        found = sorted(zip(self.statuses, counts.tolist(), strict=True), key=lambda one: -one[1])
        return {status: count for status, count in found if count}

    def edited_faces(self, places: NDArray[np.integer] | slice = slice(None)) -> list[str]:
        """Return the different images that were edited."""
        edited = self.face[places][self.ok[places]]
        return [self.faces[place] for place in np.unique(edited)]

    def find(self, settings: pd.Series) -> NDArray[np.intp]:
        """Return the places of the rows whose setting has a True in a column of them."""
        return np.flatnonzero(settings.to_numpy(bool)[self.setting])

    def of(self, **wanted: object) -> pd.Series:
        """Return which settings have these values; None asks for a missing one."""
        found = pd.Series(True, self.settings.index)
        for name, value in wanted.items():
            column = self.settings[name]
            found &= column.isna() if pd.isna(value) else column == value
        return found

    def column(self, name: str) -> NDArray[np.float64]:
        """Read a column of numbers; NaN where a row is not ok or the number is not finite."""
        values, start = np.empty(len(self), np.float64), 0
        with pq.ParquetFile(self.path) as file:
            for group in range(file.num_row_groups):
                part = file.read_row_group(group, [name]).column(0).to_numpy()
                values[start : start + len(part)] = part
                start += len(part)
        values[~(self.ok & np.isfinite(values))] = np.nan
        return values

    def table(self, places: NDArray[np.integer]) -> pd.DataFrame:
        """Read some rows, ascending, with their texts; the index is their places."""
        parts, start = list[pd.DataFrame](), 0
        with pq.ParquetFile(self.path) as file:
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                inside = places[(places >= start) & (places < start + size)]
                if len(inside):
                    own = file.read_row_group(group, [*_SHOWN, *_NUMBERS]).take(inside - start)
                    parts.append(own.to_pandas())
                start += size
        columns = [*_SHOWN, *_NUMBERS]
        shown = pd.concat(parts) if parts else pd.DataFrame(columns=columns)
        shown.index = pd.Index(places)
        shown["image_id"] = [self.faces[face] for face in self.face[places]]
        shown["status"] = [self.statuses[status] for status in self.status[places]]
        for name in SETTINGS:
            shown[name] = self.settings[name].to_numpy()[self.setting[places]]
        known = (shown["status"] == "ok").to_numpy()
        for name in _NUMBERS:
            numbers = shown[name].astype(float)
            shown[name] = numbers.where(known & np.isfinite(numbers))
        return shown


def collect_rows(results: Iterable[pa.Table], criteria: Criteria, path: Path) -> Rows:
    """Score the rows of a run, and write them with their derived scores as a Parquet file.

    Args:
        results: Tables of the schema RESULTS.
        criteria: What counts as a success.
        path: Of the file, which must stay as long as the rows are used.
    """
    settings, faces, statuses = _Codes(), _Codes(), _Codes()
    hashes = list[NDArray[np.uint64]]()
    with pq.ParquetWriter(path, _SCORED, compression="zstd") as writer:
        for table in _row_groups(results):
            rows = score_rows(table, criteria)
            for name in DERIVED:
                values = pa.array(rows[name], pa.float64(), from_pandas=True)
                table = table.append_column(name, values)
            writer.write_table(table.cast(_SCORED))
            settings.add(rows[[*SETTINGS]])
            faces.add(rows[["image_id"]])
            statuses.add(rows[["status"]])
            ids = rows["pair_id"].to_numpy(object)
            hashes.append(pd.util.hash_array(ids, categorize=False))
    return Rows(
        path,
        pd.DataFrame(settings.values(), columns=[*SETTINGS]),
        [str(name) for (name,) in faces.values()],
        [str(name) for (name,) in statuses.values()],
        settings.codes(),
        faces.codes(),
        statuses.codes().astype(np.int8),
        _repeated(hashes),
    )


def distinct(table: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Number the different rows of a table in the order they come.

    Returns:
        [N] the number of each row, and the place of the first row of each number.
    """
    numbers = np.zeros(len(table), np.int64)
    for name in table:
        codes, values = pd.factorize(table[name], use_na_sentinel=False)
        numbers, _ = pd.factorize(numbers * len(values) + codes)
    return numbers, np.unique(numbers, return_index=True)[1]


class _Codes:
    """Numbers of the different rows of tables that come part by part."""

    def __init__(self) -> None:
        self._places: dict[tuple[object, ...], int] = {}
        self._codes = list[Codes]()

    def add(self, table: pd.DataFrame) -> None:
        numbers, firsts = distinct(table)
        different = table.iloc[firsts].astype(object)
        different = different.where(different.notna(), None)
        keys = different.itertuples(index=False, name=None)
        places = [self._places.setdefault(key, len(self._places)) for key in keys]
        self._codes.append(np.array(places, np.int32)[numbers])

    def values(self) -> list[tuple[object, ...]]:
        return [*self._places]

    def codes(self) -> Codes:
        joined = np.concatenate([*self._codes, np.zeros(0, np.int32)])
        self._codes.clear()
        return joined


def _repeated(hashes: list[NDArray[np.uint64]]) -> int:
    joined = np.concatenate([*hashes, np.zeros(0, np.uint64)])
    joined.sort()
    return int((joined[1:] == joined[:-1]).sum())


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables of about as many rows as a row group; many small ones would make a large footer."""
    waiting, count, size = list[pa.Table](), 0, 0
    for table in tables:
        waiting.append(table)
        count, size = count + len(table), size + table.nbytes
        if count >= _ROW_GROUP or size >= _GROUP_BYTES:
            yield pa.concat_tables(waiting)
            waiting, count, size = [], 0, 0
    if count:
        yield pa.concat_tables(waiting)
