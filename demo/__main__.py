"""`make demo`: portraits are rendered into scenes, found by dlib, and cut out as FFHQ crops."""

import html
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from demo.portraits.captions import caption
from demo.portraits.detection import FaceFinder
from demo.portraits.scene import render_scenes, sample_scenes
from demo.portraits.sheet import to_image
from styleclip_ops.alignment import align_face

OUTPUT = Path("demo-output")
PHOTOS = Path(__file__).parent / "photos"
CROP_SIZE = 256
MINIMUM_SCORE = 0.15
NUM_SCENES = 11
SEED = 7


def main() -> None:
    """Align every photograph and write a page that shows photographs beside their crops."""
    OUTPUT.mkdir(exist_ok=True)
    finder = FaceFinder(MINIMUM_SCORE)
    rows, faces = [], 0
    for name, picture, text in _photographs():
        print(f"  {name}", end="", flush=True)
        image = to_image(picture)
        image.save(OUTPUT / f"{name}.jpg", quality=92)
        crops = []
        for index, points in enumerate(finder.landmarks(picture)):
            crop = OUTPUT / f"{name}-face{index}.png"
            align_face(image, points.numpy(), CROP_SIZE).save(crop)
            crops.append(crop.name)
        faces += len(crops)
        print(f": {len(crops)} face{'s' if len(crops) != 1 else ''}")
        rows.append(_row(name, text, crops))
    page = OUTPUT / "index.html"
    page.write_text(PAGE.format(rows="\n".join(rows)), encoding="utf-8")
    print(f"{len(rows)} photographs, {faces} faces aligned; open {page.resolve()}")


def _photographs() -> Iterator[tuple[str, Tensor, str]]:
    """Name, pixels [3, H, W] in [-1, 1] and a description of each photograph."""
    for path in sorted(PHOTOS.glob("*.png")):
        pixels = np.asarray(Image.open(path).convert("RGB"), np.float32)
        yield path.stem, torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1, "a photograph"
    draw = random.Random(SEED)  # noqa: S311
    for index, scene in enumerate(sample_scenes(NUM_SCENES, SEED)):
        texts = [caption(placement.portrait, draw) for placement in scene.placements]
        yield f"scene{index:02d}", render_scenes([scene])[0], "; ".join(texts) or "nobody"


def _row(name: str, text: str, crops: list[str]) -> str:
    pictures = "".join(f'<img src="{crop}" alt="aligned face" width="160">' for crop in crops)
    return (
        f'<figure><img src="{name}.jpg" alt="{html.escape(name)}" height="240">'
        f"<div>{pictures or '<p>no face found</p>'}</div>"
        f"<figcaption>{html.escape(text)}</figcaption></figure>"
    )


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>StyleCLIP in batch: alignment</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; color: #222 }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(36rem, 1fr)); gap: 1.5rem }}
figure {{ margin: 0; display: grid; grid-template-columns: auto 1fr; gap: .6rem }}
figcaption {{ grid-column: 1 / -1; color: #555 }}
img {{ border-radius: 4px }}
</style>
<h1>From photographs to FFHQ crops</h1>
<p>Left the photograph (one real, the others rendered), right every face that dlib found, levelled
and cut as the FFHQ data set is. Below, what is known about the people.</p>
<main>
{rows}
</main></html>
"""


if __name__ == "__main__":
    main()
