"""The strip of pictures in the README: faces before and after the edits of the demo.

python -m demo.train.showcase demo-output docs/images/strip.png
    draws it from what `make demo` left
"""

import sys
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

_IMAGES = ("person-3", "person-5", "person-6", "person-8")
_SIDE, _GAP, _HEAD = 150, 6, 26
_PAPER, _INK = "#ffffff", "#222222"


def draw_showcase(results: pd.DataFrame, workspace: Path) -> Image.Image:
    """Lay out source, inversion and the strongest edit of each prompt, a row for each face.

    Args:
        results: Result rows of a run.
        workspace: Folder of its crops and inversions.

    Raises:
        ValueError: The run has no edit of one of the faces.
    """
    ok = results[(results["status"] == "ok") & results["image_id"].isin(_IMAGES)]
    one = ["image_id", "target_prompt", "method"]
    shown = ok.sort_values("alpha").drop_duplicates(one, keep="last")
    edits = [
        (str(prompt), str(method))
        for method, prompt in sorted({*zip(shown["method"], shown["target_prompt"], strict=True)})
    ]
    width = (2 + len(edits)) * (_SIDE + _GAP) - _GAP
    sheet = Image.new("RGB", (width, _HEAD + len(_IMAGES) * (_SIDE + _GAP) - _GAP), _PAPER)
    _write_titles(sheet, ["photograph", "inversion", *(_title(*edit) for edit in edits)])
    for row, image in enumerate(_IMAGES):
        (inversion,) = workspace.glob(f"inversions/*/{image}.png")
        paths = [workspace / "crops" / f"{image}.png", inversion]
        for prompt, method in edits:
            own = shown.query("image_id == @image & target_prompt == @prompt & method == @method")
            if own.empty:
                raise ValueError(f"results: got no edit of {image} to {prompt!r} by {method}")
            paths.append(Path(own["output_uri"].iloc[0].removeprefix("file://")))
        for column, path in enumerate(paths):
            with Image.open(path) as picture:
                tile = picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
            sheet.paste(tile, (column * (_SIDE + _GAP), _HEAD + row * (_SIDE + _GAP)))
    return sheet


def _title(prompt: str, method: str) -> str:
    for words in ("a face with ", "a ", "an "):
        prompt = prompt.removeprefix(words)
    return f"{prompt.removesuffix(' face')}, {method}"


def _write_titles(sheet: Image.Image, titles: list[str]) -> None:
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, title in enumerate(titles):
        middle = column * (_SIDE + _GAP) + _SIDE / 2
        draw.text((middle, _HEAD / 2), title, _INK, font, anchor="mm")


def main() -> None:
    """Draw the strip of the demo in the folder given first, into the file given second."""
    workspace, destination = (Path(word) for word in sys.argv[1:3])
    parts = sorted((workspace / "runs" / "demo" / "results").glob("*.parquet"))
    results = pd.concat([pd.read_parquet(part) for part in parts])
    draw_showcase(results, workspace).save(destination, optimize=True)


if __name__ == "__main__":
    main()
