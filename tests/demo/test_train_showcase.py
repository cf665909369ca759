"""The strip of the README."""

import pandas as pd
import pytest
from PIL import Image

from demo.train import showcase


def fake_run(workspace):
    rows = []
    for place, image in enumerate(showcase._IMAGES):
        for folder, level in (("crops", 10), ("inversions/feed", 60)):
            (workspace / folder).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (level + place,) * 3).save(workspace / folder / f"{image}.png")
        for alpha, level in ((2.0, 200), (1.0, 120)):
            path = workspace / f"{image}-{alpha}.png"
            Image.new("RGB", (8, 8), (level + place,) * 3).save(path)
            rows.append([image, "a face with a hat", "global", alpha, "ok", f"file://{path}"])
    columns = ["image_id", "target_prompt", "method", "alpha", "status", "output_uri"]
    return pd.DataFrame(rows, columns=columns)


def test_the_strip_shows_source_inversion_and_the_strongest_edit_of_every_face(tmp_path):
    sheet = showcase.draw_showcase(fake_run(tmp_path), tmp_path)
    step = showcase._SIDE + showcase._GAP
    for place in range(len(showcase._IMAGES)):
        y = showcase._HEAD + place * step + 75
        shown = [sheet.getpixel((column * step + 75, y))[0] for column in range(3)]
        assert shown == [10 + place, 60 + place, 200 + place]
    assert sheet.width == 3 * step - showcase._GAP


def test_a_face_without_its_edit_is_told(tmp_path):
    results = fake_run(tmp_path)
    lacking = results[results["image_id"] != showcase._IMAGES[2]]
    with pytest.raises(ValueError, match=f"no edit of {showcase._IMAGES[2]}"):
        showcase.draw_showcase(lacking, tmp_path)
