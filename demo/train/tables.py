"""Tables of figures, as Markdown, and the sections of model cards that hold them."""

from collections.abc import Sequence
from pathlib import Path

from demo.train.files import replacing


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table that is readable as text too.

    Args:
        header: Names of the columns.
        rows: Cells, as many in each as columns.
    """
    lines = [header, *rows]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(header))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in [header, rule, *rows]
    )


def percent(share: float) -> str:
    """Write a share, for example `87 %`."""
    return f"{100 * share:.0f} %"


def set_section(card: Path, heading: str, body: str) -> None:
    """Write a section of a card in the place of one of the same heading, or at the end.

    Args:
        card: A Markdown file.
        heading: Without the signs of a heading.
        body: Markdown without headings of the second level.
    """
    before, *sections = card.read_text(encoding="utf-8").split("\n## ")
    kept = [section for section in sections if section.partition("\n")[0] != heading]
    parts = [before.rstrip(), *(section.rstrip() for section in kept), f"{heading}\n\n{body}"]
    with replacing(card) as part:
        part.write_text("\n\n## ".join(parts) + "\n", encoding="utf-8")
