"""Edited images: what one writer committed, another does not replace."""

import pytest
from PIL import Image

from tasks.outputs import open_output, read_image
from tasks.storage import Folder, sha256

BRIGHT, DARK = (Image.new("RGB", (8, 8), color) for color in ("white", "black"))


@pytest.mark.parametrize("layout", ["files", "webdataset"])
def test_writers_whose_images_differ_leave_both(root, layout):
    written = []
    for picture in (BRIGHT, DARK):
        output = open_output(Folder(root), layout, "png", 0)
        written.append(output.write("anna", "a-smile-global-p0", picture, {}))
        output.close()
    output.discard()
    uri, digest = written[0]
    assert sha256(read_image(uri)) == digest
    left = [name for name in Folder(root).files() if name.endswith((".png", ".tar"))]
    # Single files may be named by the other's rows too; a tar is of one writer alone.
    assert len(left) == (2 if layout == "files" else 1)


def test_the_same_image_has_the_same_name(root):
    names = {
        open_output(Folder(root), "files", "png", 0).write("anna", "x", BRIGHT, {})[0]
        for _ in range(2)
    }
    assert len(names) == 1
