"""Training curves: JSON lines, and a drawing of them."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

Row = Mapping[str, float]

_COLORS = ("#1f5fa8", "#c2410c", "#15803d", "#7e22ce", "#a16207")
_SIZE, _MARGIN = (720, 420), 56


def append_row(path: Path, row: Row) -> None:
    """Add one row of figures."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({name: round(value, 6) for name, value in row.items()}) + "\n")


def read_rows(path: Path) -> list[dict[str, float]]:
    """Read all rows, none if there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def draw_curve(rows: Sequence[Row], x: str, names: Sequence[str]) -> Image.Image:
    """Draw the columns `names`, positive figures, over column `x` on a logarithmic axis."""
    picture = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(picture)
    values = [row[name] for row in rows for name in names if row.get(name, 0) > 0]
    if not values:
        return picture
    low, high = math.log10(min(values)) - 0.02, math.log10(max(values)) + 0.02
    end = max(row[x] for row in rows) or 1.0
    width, height = _SIZE[0] - 2 * _MARGIN, _SIZE[1] - 2 * _MARGIN

    def place(across: float, value: float) -> tuple[float, float]:
        up = (math.log10(value) - low) / (high - low)
        return _MARGIN + width * across / end, _SIZE[1] - _MARGIN - height * up

    for tick in range(5):
        value = 10 ** (low + (high - low) * tick / 4)
        left, level = place(0, value)
        draw.line([(left, level), (left + width, level)], fill="#dddddd")
        draw.text((6, level - 6), f"{value:.3g}", fill="#444444")
        right = end * tick / 4
        draw.text((place(right, value)[0] - 12, _SIZE[1] - _MARGIN + 6), f"{right:.3g}", "#444444")
    draw.text((_SIZE[0] // 2 - 20, _SIZE[1] - 22), x, fill="#222222")
    for index, name in enumerate(names):
        color = _COLORS[index % len(_COLORS)]
        points = [place(row[x], row[name]) for row in rows if row.get(name, 0) > 0]
        draw.line(points, fill=color, width=2)
        draw.text((_MARGIN + 130 * index, 20), name, fill=color)
    return picture
