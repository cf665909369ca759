"""The rendered photographs of `demo/photos`, and what is true of the people in them.

python -m demo.train.scenes
    writes them anew, with people.json
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from demo.portraits.attributes import RATES, Portrait
from demo.portraits.sampling import sample_portraits
from demo.portraits.scene import Placement, Scene, face_truths, render_scenes, sample_scenes
from demo.portraits.sheet import to_image
from demo.train.files import replacing

PHOTOS = Path(__file__).parents[1] / "photos"
_SIZES = (512, 768, 640)
_QUALITY = 90

_NO_PICTURE = "not-a-picture.jpg"
_TEXT = "Shopping list: batteries, film, frames. This file is text on purpose.\n"


@dataclass(frozen=True)
class Photograph:
    """Name a rendered photograph.

    Attributes:
        name: File name.
        scene: What it shows.
        size: Side in pixels.
    """

    name: str
    scene: Scene
    size: int


def photographs() -> Iterator[Photograph]:
    """Yield eight scenes of one person, two of two, one of three, and an empty room."""
    for index, scene in enumerate(sample_scenes(8, seed=26, people=1)):
        yield Photograph(f"person-{index + 1}.jpg", scene, _SIZES[index % len(_SIZES)])
    for index, scene in enumerate(sample_scenes(2, seed=12, people=2)):
        yield Photograph(f"pair-{index + 1}.jpg", scene, 768)
    yield Photograph("three.jpg", _three_people(), 768)
    yield Photograph("nobody.jpg", sample_scenes(1, seed=14, people=0)[0], 512)


def write_photographs(folder: Path) -> None:
    """Write every photograph, a file that is none, and people.json, which says who is where."""
    lines = []
    for photograph in photographs():
        picture = render_scenes([photograph.scene], photograph.size)[0]
        with replacing(folder / photograph.name) as part:
            to_image(picture).save(part, quality=_QUALITY)
        lines.append(f"{json.dumps(photograph.name)}: {json.dumps(_people(photograph))}")
    with replacing(folder / _NO_PICTURE) as part:
        part.write_text(_TEXT, encoding="utf-8")
    with replacing(folder / "people.json") as part:
        part.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _three_people() -> Scene:
    portraits = sample_portraits(3, seed=13)
    places = zip(portraits, (0.2, 0.8, 0.5), (0.42, 0.4, 0.56), (-6.0, 5.0, 3.0), strict=True)
    return Scene(tuple(Placement(p, x, y, 0.36, roll) for p, x, y, roll in places), seed=13)


def _people(photograph: Photograph) -> list[dict[str, object]]:
    """Attributes and FFHQ frame (four corners in pixels, from the top left) of each person."""
    truths = face_truths(photograph.scene, photograph.size)
    return [
        _attributes(placement.portrait) | {"quad": [[round(c, 1) for c in p] for p in quad]}
        for placement, quad in zip(
            photograph.scene.placements, (t.quad.tolist() for t in truths), strict=True
        )
    ]


def _attributes(portrait: Portrait) -> dict[str, object]:
    return {name: getattr(portrait, name) for name in RATES}


if __name__ == "__main__":
    write_photographs(PHOTOS)
