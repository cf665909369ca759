"""Hostile tables, through the doors of manifests, prompt tables and listings of photographs."""

import csv
import io
import itertools
import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.endurance.hostile.items import Item, damaged, drawing
from manifests.errors import ManifestError, RowError
from manifests.schemas import EDITS
from tasks.manifest_files import check_manifest, read_prompts, stream_manifest
from tasks.photos.listing import list_photos
from tasks.photos.listing_table import ListingError

_ROWS = 40
_NAN = float("nan")
_TEXTS = (
    *("../../etc/passwd", "/etc/passwd", "C:\\Windows\\x", "C:/x", "..", ".", "a/b", "a\\b", "CON"),
    *("x" * 255, "x" * 5000, "\x1b]0;owned\x07", "\x1b[2J", "a\0b", "a\nb", "\u202eevil", "", " "),
    *("e\u0301", "\xe9", "\U0001f642" * 40, "\u05e9\u05dc\u05d5\u05dd", "\ud800", "NaN", "inf"),
    *("<script>alert(1)</script>", "' OR 1=1 --", "=cmd|' /C calc'!A0", "{{7*7}}", "%s%n", "1e999"),
    *('{"steps": 1e9}', '{"steps": ' + "9" * 5000 + "}", "[" * 9000, '{"a":1,"a":2}', "null"),
    *("s3://user:password@bucket/x", "http://127.0.0.1:1/x", "file:///etc/passwd", "zip://x/y"),
    *(
        "dir://x",
        "simplecache::s3://a/b",
        "://",
        "x://y",
        "-1",
        "0x10",
        "1_000",
        "\u0664",
        "a" * 121,
    ),
)
_VALUES = (
    *(None, _NAN, float("inf"), -float("inf"), 1e308, -0.0, 2**63 - 1, -1, 0, True, b"\xff\xfe"),
    *([1], {"a": 1}, [None], Decimal("1e30"), np.datetime64("2020-01-01"), 10**15),
)
_COLUMNS = EDITS.names
_DOORS = ("manifest", "prompts", "listing")


class Manifests:
    """Damaged, mistyped, contradictory and swollen tables."""

    refusals = (ManifestError, ListingError)

    def __init__(self, folder: Path, seed: int, _: Path) -> None:
        self._folder, self._seed = folder, seed
        rows = [_row(i) for i in range(_ROWS)]
        self._rows = {
            "manifest": rows,
            "prompts": [
                {k: v for k, v in row.items() if k not in ("pair_id", "image_id")} for row in rows
            ],
            "listing": [{"path": f"photos/{i}.jpg", "image_id": f"p{i}"} for i in range(_ROWS)],
        }
        self._by_hand = [*_by_hand()]

    def good(self) -> Item:
        """Return a manifest."""
        return Item("good", "good.csv", _csv(self._rows["manifest"]), "manifest")

    def item(self, index: int) -> Item:
        """Return one table."""
        if index < len(self._by_hand):
            kind, made = self._by_hand[index]
            content = made() if callable(made) else made
            suffix = "parquet" if content.startswith(b"PAR1") else "csv"
            door = "listing" if kind.startswith("listing") else "manifest"
            return Item(kind, f"table.{suffix}", content, door)
        draw = drawing(self._seed, "manifests", index)
        door, suffix = draw.choice(_DOORS), draw.choice(("csv", "parquet"))
        rows = [dict(row) for row in self._rows[door]]
        if draw.random() < 0.5:
            way = _edit_fields(rows, draw)
            content = _csv(rows) if suffix == "csv" else _parquet(rows, draw)
        else:
            good = _csv(rows) if suffix == "csv" else _parquet(rows, draw)
            way, content = damaged(good, draw)
        return Item(f"{door} {suffix}: {way}", f"table.{suffix}", content, door)

    def judge(self, item: Item) -> str:
        """Read the table through its door."""
        path = self._folder / item.name
        path.write_bytes(item.content)
        if item.door == "listing":
            return f"{len(list_photos(str(path))) and 'accepted'}"
        if item.door == "prompts":
            return f"{len(read_prompts(str(path))) and 'accepted'}"
        errors = (error for some in check_manifest(str(path), "") for error in some.errors)
        shown = [*itertools.islice(errors, 100)]
        count = len(shown) + sum(1 for _ in errors)
        for error in shown:
            _check(error)
        if not count:
            for batch in stream_manifest(str(path)):
                assert batch.schema.equals(EDITS)
            return "accepted"
        return "mistakes named"


def _check(error: RowError) -> None:
    text = str(error)
    assert text.startswith(f"row {error.row:,}"), f"got {text!r}"
    assert "got " in text, f"got {text!r}"
    assert "expected " in text, f"got {text!r}"
    assert text.isprintable(), f"got {text!r}"
    assert len(text) < 1000, f"got a message of {len(text)} characters"


def _row(index: int) -> dict[str, Any]:
    row: dict[str, Any] = {"pair_id": f"id-{index}", "image_id": f"face-{index}"}
    row |= {"neutral_prompt": "a face", "target_prompt": f"a face with hat {index}"}
    method = ("global", "mapper", "optimize")[index % 3]
    row |= {"method": method, "alpha": 2.0, "beta": 0.2 if method == "global" else None}
    row |= {"num_channels": None, "mapper_uri": None}
    return row | {"options": '{"steps": 40}' if method == "optimize" else None}


def _edit_fields(rows: list[dict[str, Any]], draw: random.Random) -> str:
    ways = []
    for _ in range(draw.randint(1, 4)):
        column = draw.choice([*rows[0]])
        value = draw.choice((*_TEXTS, *_VALUES))
        chosen = rows if draw.random() < 0.3 else draw.sample(rows, draw.randint(1, 3))
        for row in chosen:
            row[column] = value
        ways.append(f"{column} = {str(value)[:20]!r}")
    if draw.random() < 0.2:
        rows.append(dict(draw.choice(rows)))
        ways.append("a row twice")
    return ", ".join(ways)


def _csv(rows: list[dict[str, Any]]) -> bytes:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, [*rows[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue().encode("utf-8", "surrogatepass")


def _parquet(rows: list[dict[str, Any]], draw: random.Random) -> bytes:
    columns = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowException, ValueError, TypeError, OverflowError, UnicodeEncodeError):
            # Arrow's columns have one type; all cells then are the odd one, or text.
            odd = draw.choice(values)
            try:
                columns[name] = pa.array([odd] * len(rows))
            except (pa.ArrowException, TypeError, UnicodeEncodeError):
                texts = [str(value).encode("utf-8", "surrogatepass") for value in values]
                columns[name] = pa.array(texts)
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression=draw.choice(("zstd", "snappy", "none")))
    return sink.getvalue()


def _table(columns: dict[str, Any], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def _by_hand() -> Iterator[tuple[str, bytes | Callable[[], bytes]]]:
    """Kind, and the content or, where that is large, what makes it."""
    head = b"image_id,target_prompt\n"
    yield "nothing", b""
    yield "byte order mark", b"\xef\xbb\xbf" + head + b"a,x\n"
    yield "semicolons", b"image_id;target_prompt\na;x\n"
    yield "NUL bytes", head + b"a\0,x\0y\n" + bytes(100)
    yield "NUL bytes alone", bytes(10_000)
    yield "UTF-16", "image_id,target_prompt\na,x\n".encode("utf-16")
    yield "Latin-1", head + b"a,caf\xe9\n"
    yield "an open quote", head + b'a,"x\n' * 10_000
    yield "carriage returns alone", head.replace(b"\n", b"\r") + b"a,x\r"
    yield "PNG", b"\x89PNG\r\n\x1a\n" + bytes(1000)
    for text in _TEXTS:
        yield f"image id {text[:20]!r}", _csv([{"image_id": text, "target_prompt": "x"}])
        yield f"prompt {text[:20]!r}", _csv([{"image_id": "a", "target_prompt": text}])
        yield f"listing of {text[:20]!r}", _csv([{"path": text, "image_id": "a"}])
        yield f"listing id {text[:20]!r}", _csv([{"path": "a.jpg", "image_id": text}])
    yield "prompt of 10,000 characters", _csv([{"image_id": "a", "target_prompt": "x" * 10_000}])
    nested = pa.array([[{"a": [1]}]] * 3)
    yield "nested columns", _table({"image_id": nested, "target_prompt": nested})
    yield "wrong types", _table({"image_id": [1, 2], "target_prompt": [1.0, _NAN]})
    yield "nulls", _table({"image_id": pa.nulls(9), "target_prompt": pa.nulls(9)})
    strengths = [_NAN, float("inf"), -float("inf"), 1e308, None]
    ids = [f"a{i}" for i in range(5)]
    yield "strengths", _table({"image_id": ids, "target_prompt": ["x"] * 5, "alpha": strengths})
    yield "ids twice", _table({"image_id": ["a"] * 9, "target_prompt": ["x"] * 9})
    yield "Parquet of no column", _table({})
    yield "a million columns", lambda: b",".join([b"image_id"] * 1_000_000) + b"\n"
    yield "10,000 Parquet columns", lambda: _table({f"c{i}": [1] for i in range(10_000)})
    yield "a row of a million cells", lambda: head + b"a" + b"," * 1_000_000 + b"b\n"
    yield "a million empty rows", lambda: head + b"\n" * 1_000_000 + b"a,x\n"
    yield "a million mistakes", lambda: head + b"?,x\n" * 1_000_000
    yield "a line of 100 MB", lambda: head + b"a," + b"x" * 100_000_000 + b"\n"
    yield "a header of 100 MB", lambda: b"a," * 50_000_000
    yield "a row of 100 MB in quoted lines", lambda: head + b'"a\n",' * 16_000_000
    yield "a huge row group", lambda: _huge_row_group(300_000)
    # A few kilobytes each, which stand for gigabytes.
    yield "a long text 100,000 times", _repeated_text
    yield "a text of a gigabyte", _long_text
    yield "two billion rows", lambda: _many_rows(2_000)


def _repeated_text() -> bytes:
    places = pa.array(np.zeros(100_000, np.int32))
    texts = pa.DictionaryArray.from_arrays(places, ["x" * 1_000_000])
    return _table({"image_id": texts, "target_prompt": texts})


def _long_text() -> bytes:
    long = pa.array(["x" * 1_000_000_000])
    options = {"use_dictionary": False, "compression": "zstd", "write_statistics": False}
    return _table({"image_id": long, "target_prompt": ["x"]}, **options)


def _huge_row_group(rows: int) -> bytes:
    ids = pa.array([f"face-{i}" for i in range(rows)])
    prompts = pa.array(["a smile"] * rows).dictionary_encode()
    return _table({"image_id": ids, "target_prompt": prompts}, row_group_size=rows)


def _many_rows(groups: int, size: int = 1_000_000) -> bytes:
    sink, nulls = io.BytesIO(), pa.nulls(size, pa.int32())
    table = pa.table({"image_id": nulls, "target_prompt": nulls})
    with pq.ParquetWriter(sink, table.schema) as writer:
        for _ in range(groups):
            writer.write_table(table)
    return sink.getvalue()
