"""One sheet of the edits that were judged: faces, and what each method makes of them at its best.

python -m demo.train.overview demo/train/runs/judge demo/models/editing.webp
    draws it from what the stage `judge` left
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from demo.train.files import replacing
from demo.train.trials import STRIP_FACES, Trial, best_setting, read_trials, strip_path

_FACES, _ACROSS = 6, 3
# Pictures are twice as large in strips, with a gap of two pixels around each of their own.
_SCALE, _STRIP_GAP = 2, 2
_GAP, _HEAD, _MARGIN = 12, 22, 66
_PAPER, _INK = "#ffffff", "#222222"


def write_overview(folder: Path, destination: Path) -> None:
    """Draw the sheet of the trials in a folder into a WebP file."""
    with replacing(destination) as part:
        draw_overview(folder).save(part, "WEBP", quality=90)


def draw_overview(folder: Path) -> Image.Image:
    """Lay out a block for each prompt: a row of faces, and one of their edits by each method.

    Args:
        folder: Of the trials, see `demo.train.trials.try_methods`.
    """
    trials = read_trials(folder)
    prompts = dict.fromkeys(trial.prompt for trial in trials)
    methods = [*dict.fromkeys(trial.method for trial in trials)]
    with Image.open(strip_path(folder, methods[0], trials[0].prompt)) as strip:
        step = (strip.width // _SCALE - _STRIP_GAP) // min(trials[0].sources, STRIP_FACES)
    width, height = _FACES * step + _GAP, _HEAD + (1 + len(methods)) * step + _GAP
    down = -(-len(prompts) // _ACROSS)
    sheet = Image.new("RGB", (_MARGIN + _ACROSS * width, down * height), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for place, prompt in enumerate(prompts):
        left, top = _MARGIN + place % _ACROSS * width, place // _ACROSS * height
        draw.text((left + 2, top + _HEAD / 2), prompt, _INK, font, anchor="lm")
        own = [trial for trial in trials if trial.prompt == prompt]
        rows = [("before", own[0], 0), *((t.method, t, _best_row(t)) for t in own)]
        for row, (name, trial, number) in enumerate(rows):
            at = top + _HEAD + row * step
            if not place % _ACROSS:
                draw.text((4, at + step / 2), name, _INK, font, anchor="lm")
            with Image.open(strip_path(folder, trial.method, prompt)) as strip:
                small = strip.reduce(_SCALE)
            right = min(_FACES * step, small.width)
            sheet.paste(small.crop((0, number * step, right, (number + 1) * step)), (left, at))
    return sheet


def _best_row(trial: Trial) -> int:
    """The row of a strip that shows the best strength, below the sources."""
    best = best_setting(trial.figures)
    return 1 + [setting for setting in trial.figures if setting.is_like(best)].index(best)


def main() -> None:
    """Draw the sheet of the trials in the folder given first, into the file given second."""
    folder, destination = (Path(word) for word in sys.argv[1:3])
    write_overview(folder, destination)


if __name__ == "__main__":
    main()
