"""Edited images: what one writer committed, another does not replace."""

import pytest
from PIL import Image

from tasks.outputs import keep_picture, open_output, read_image
from tasks.provenance import png_bytes
from tasks.store.folders import Folder, read_url, sha256

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


@pytest.mark.parametrize("layout", ["files", "webdataset"])
def test_names_that_differ_in_a_dot_are_two_images_of_any_folder(tmp_path, layout):
    output = open_output(Folder(str(tmp_path / "photos #2")), layout, "png", 0)
    written = [
        output.write(name, f"{name}-smile", picture, {"image_id": name})
        for name, picture in (("img.1", BRIGHT), ("img_1", DARK))
    ]
    output.close()
    assert [sha256(read_image(uri)) for uri, _ in written] == [digest for _, digest in written]


def test_the_same_image_has_the_same_name(root):
    names = {
        open_output(Folder(root), "files", "png", 0).write("anna", "x", BRIGHT, {})[0]
        for _ in range(2)
    }
    assert len(names) == 1


def test_the_first_of_equal_pictures_is_believed_by_all(root):
    folder, facts = Folder(root), {"image_id": "anna", "source_sha256": "1"}
    nearly = Image.new("RGB", (8, 8), (254, 255, 255))
    kept = [keep_picture(folder, "anna", png_bytes(p, facts)) for p in (BRIGHT, nearly)]
    assert kept[0] == kept[1] == (folder.url_of("anna.png"), sha256(png_bytes(BRIGHT, facts)))
    assert sha256(folder.read("anna.png")) == kept[0][1]


@pytest.mark.parametrize("left", ["other facts", "another size", "half", "nothing"])
def test_what_else_lies_under_a_name_is_neither_believed_nor_replaced(tmp_path, left):
    folder, facts = Folder(str(tmp_path)), {"image_id": "anna", "source_sha256": "1"}
    before = {
        "other facts": png_bytes(BRIGHT, facts | {"source_sha256": "2"}),
        "another size": png_bytes(BRIGHT.resize((9, 9)), facts),
        "half": png_bytes(BRIGHT, facts)[:-30],
        "nothing": b"",
    }[left]
    folder.write("anna.png", before)
    uri, digest = keep_picture(folder, "anna", png_bytes(BRIGHT, facts))
    assert uri == folder.url_of(f"anna/{digest[:8]}.png")
    assert sha256(read_url(uri)) == digest
    folder.write(f"anna/{digest[:8]}.png", b"half")
    assert keep_picture(folder, "anna", png_bytes(BRIGHT, facts)) == (uri, digest)
    assert sha256(read_url(uri)) == digest
    assert folder.read("anna.png") == before
