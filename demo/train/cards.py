"""Model cards: what a file of weights is, beside it."""

from collections.abc import Mapping
from pathlib import Path

from demo.train.files import replacing


def write_card(path: Path, title: str, text: str, facts: Mapping[str, object]) -> None:
    """Write a Markdown card.

    Args:
        path: Where.
        title: The name of the model.
        text: What it is and how it was made.
        facts: Data, sizes, seconds and figures, as rows of a table.
    """
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    page = (
        f"# {title}\n\n{text}\n\n| | |\n| --- | --- |\n{rows}\n\n"
        "Licence: that of this repository. No photograph of a person went into it: every picture "
        "was rendered by `demo/portraits`.\n"
    )
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")
