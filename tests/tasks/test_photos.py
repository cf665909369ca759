"""Photographs are read as people see them, and no bytes whatever make the reader fail otherwise."""

import errno
import io
import os
import random
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from tasks.photos import decoding as photos
from tasks.photos.decoding import PhotoError, fetch_photo, read_photo, to_srgb
from tasks.store.folders import Folder

ORIENTATION = 0x0112


def encode(image: Image.Image, kind: str, **options) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    """48 x 32 pixels, smooth but for some noise; no two corners are alike."""
    y, x = np.mgrid[:32, :48]
    smooth = np.stack([x * 5, y * 7, 250 - x * 2 - y * 2], axis=2)
    noise = np.random.default_rng(1).integers(0, 4, smooth.shape)
    return Image.fromarray(np.uint8(smooth + noise))


def error_of(content: bytes) -> str:
    with pytest.raises(PhotoError) as caught:
        read_photo(content)
    assert caught.value.status == "unreadable"
    return str(caught.value)


@pytest.mark.parametrize("kind", ["BMP", "JPEG", "PNG", "TIFF", "WEBP"])
def test_every_common_format_is_read(scene, kind):
    image = read_photo(encode(scene, kind, **({"quality": 95} if kind in {"JPEG", "WEBP"} else {})))
    assert image.mode == "RGB"
    assert np.abs(np.int16(image) - np.int16(scene)).mean() < 4


def test_other_pixels_become_rgb():
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    levels = np.repeat(grey[..., None], 3, axis=2)
    sixteen = Image.fromarray(grey * 257)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(read_photo(encode(sixteen, kind)), levels)
    eight = Image.fromarray(np.uint8(grey))
    for image in (eight, eight.convert("P")):
        np.testing.assert_array_equal(read_photo(encode(image, "PNG")), levels)
    np.testing.assert_array_equal(read_photo(encode(eight.convert("CMYK"), "TIFF")), levels)
    assert read_photo(encode(eight.convert("1"), "PNG")).getextrema() == ((0, 255),) * 3
    assert "pixels of 32 bits" in error_of(encode(eight.convert("F"), "TIFF"))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "RGB"])
def test_what_is_transparent_is_white(mode):
    colour = {"LA": (10, 0), "RGBA": (200, 10, 10, 0), "P": 1, "RGB": (1, 2, 3)}[mode]
    image = Image.new(mode, (4, 4), colour)
    if mode == "P":
        image.putpalette([0, 0, 0, 90, 90, 90])
    transparency = {"P": {"transparency": 1}, "RGB": {"transparency": (1, 2, 3)}}.get(mode, {})
    assert read_photo(encode(image, "PNG", **transparency)).getcolors() == [(16, (255, 255, 255))]


def test_half_transparent_is_half_white():
    content = encode(Image.new("LA", (2, 2), (0, 128)), "PNG")
    assert read_photo(content).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    content = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    red, _, blue = read_photo(content).getpixel((4, 4))
    assert red > 240
    assert blue < 16


def test_a_picture_with_a_depth_map_behind_it_is_read(scene):
    content = encode(scene, "MPO", save_all=True, append_images=[scene.convert("L")])
    assert read_photo(content).size == scene.size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("value", range(1, 9))
def test_photographs_are_turned_upright(scene, kind, value):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encode(scene, kind, exif=exif, **options)
    with Image.open(io.BytesIO(content)) as file:
        expected = ImageOps.exif_transpose(file)
    np.testing.assert_array_equal(read_photo(content), expected)


def raw_exif(kind: int, count: int, value: bytes) -> bytes:
    """EXIF of an orientation alone, in a type of one's choice."""
    entry = ORIENTATION.to_bytes(2, "little") + bytes([kind, 0, count, 0, 0, 0]) + value
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + b"\0\0\0\0"


@pytest.mark.parametrize(
    "exif",
    [
        raw_exif(3, 1, b"\0\0\0\0"),
        raw_exif(3, 1, b"\x09\0\0\0"),
        raw_exif(2, 3, b"up\0\0"),
        raw_exif(12, 9, b"\xff\xff\xff\xff"),
        b"Exif\0\0" + b"\xff" * 40,
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
def test_a_senseless_orientation_is_none(scene, exif):
    expected = read_photo(encode(scene, "JPEG"))
    np.testing.assert_array_equal(read_photo(encode(scene, "JPEG", exif=exif)), expected)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b"Shopping list: batteries, film, frames.",
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/x) (w) file closefile\n",
        b"%PDF-1.7\n",
    ],
)
def test_what_is_no_image_is_named_so(content):
    assert f"got {len(content)} bytes of something else, expected an image of" in error_of(content)


@pytest.mark.parametrize(
    ("brand", "name"), [(b"heic", "HEIC"), (b"mif1", "HEIC"), (b"avif", "AVIF")]
)
def test_pictures_of_telephones_are_called_by_their_name(brand, name):
    said = error_of(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(100))
    assert said.startswith(f"got a {name} picture, expected one of BMP, GIF, JPEG, PNG")
    assert said.endswith("; convert it to JPEG")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_what_is_cut_off_is_unreadable(scene, kind):
    content = encode(scene, kind)
    for share in (0.1, 0.5, 0.8):
        error_of(content[: int(len(content) * share)])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damaged_bytes_give_an_image_or_a_photo_error(scene, kind):
    content, draw, failed = encode(scene, kind), random.Random(5), 0
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(draw.randint(1, 6)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            assert read_photo(bytes(damaged)).mode == "RGB"
        except PhotoError:
            failed += 1
    assert failed > 0


def with_size(content: bytes, offset: int, code: str, width: int, height: int) -> bytes:
    size = np.array([width, height], code).tobytes()
    return content[:offset] + size + content[offset + len(size) :]


@pytest.mark.parametrize(
    ("kind", "offset", "code", "side"),
    [("GIF", 6, "<u2", 60_000), ("BMP", 18, "<i4", 200_000)],
)
def test_giant_dimensions_are_refused_before_they_take_memory(scene, kind, offset, code, side):
    content = with_size(encode(scene, kind), offset, code, side, side)
    assert "expected at most 100,000,000; reduce the photograph" in error_of(content)


@pytest.mark.parametrize("side", [10_100, 15_000])
def test_a_small_file_of_many_pixels_is_refused(side):
    content = encode(Image.new("1", (side, side)), "PNG")
    assert len(content) < 200_000
    assert "pixels, expected at most 100,000,000" in error_of(content)


def test_a_large_photograph_is_told_by_its_row_alone(tmp_path):
    Image.new("1", (10_100, 10_100)).save(tmp_path / "large.png")
    look = (
        "import sys; from pathlib import Path; from tasks.photos.decoding import *\n"
        "try: read_photo(Path(sys.argv[1]).read_bytes())\n"
        "except PhotoError as error: print(error)"
    )
    command = [sys.executable, "-c", look, str(tmp_path / "large.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "got 10100 x 10100 pixels" in done.stdout
    assert done.stderr == ""


def test_a_jpeg_of_endless_scans_is_refused():
    content = encode(Image.new("L", (2000, 2000), 128), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xc4", 0, content.rindex(b"\xff\xda"))
    assert read_photo(content).size == (2000, 2000)
    hostile = content[:-2] + content[last:-2] * 1000 + b"\xff\xd9"
    assert "scans of 4,000,000 pixels, expected at most a dozen" in error_of(hostile)


def swapped_profile() -> bytes:
    """A profile by whose numbers red is green and green is red."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace(b"rXYZ", b"????", 1).replace(b"gXYZ", b"rXYZ", 1)
    profile = profile.replace(b"????", b"gXYZ", 1)
    return profile.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))


def test_colours_are_those_of_the_profile():
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    photo = read_photo(
        encode(red, "JPEG", quality=100, subsampling=0, icc_profile=swapped_profile())
    )
    assert photo.getpixel((0, 0))[0] > 250
    red_level, green, blue = to_srgb(photo).getpixel((0, 0))
    assert (red_level < 8, green > 247, blue < 8) == (True, True, True)


@pytest.mark.parametrize("profile", [b"", b"nonsense", b"\0" * 200])
def test_a_damaged_profile_is_left_unused(scene, profile):
    photo = read_photo(encode(scene, "PNG", icc_profile=profile))
    np.testing.assert_array_equal(to_srgb(photo), scene)


def test_nothing_but_a_profile_stays_of_the_metadata(scene):
    exif = Image.Exif()
    exif[0x010E] = "a private note"
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read_photo(encode(scene, "JPEG", exif=exif, icc_profile=srgb, comment="x")).info == {}
    other = swapped_profile()
    photo = read_photo(encode(scene, "PNG", icc_profile=other, dpi=(72, 72)))
    assert photo.info == {"icc_profile": other}
    assert to_srgb(photo).info == {}


def test_photographs_are_fetched_from_every_store(root):
    folder = Folder(root)
    folder.write("deep/a b#1.jpg", b"bytes")
    folder.write("empty.jpg", b"")
    assert fetch_photo(folder.url_of("deep/a b#1.jpg")) == b"bytes"
    assert fetch_photo(folder.url_of("empty.jpg")) == b""
    with pytest.raises(PhotoError, match="no such file"):
        fetch_photo(folder.url_of("nothing.jpg"))


def test_a_file_that_is_too_long_is_not_read(root, monkeypatch):
    monkeypatch.setattr(photos, "MAX_BYTES", 4)
    Folder(root).write("long.jpg", b"12345")
    with pytest.raises(PhotoError, match="got more than 4 bytes"):
        fetch_photo(Folder(root).url_of("long.jpg"))


@pytest.mark.parametrize("name", ["folder", "file.jpg/inside.jpg", "x" * 300 + ".jpg"])
def test_a_path_that_can_never_be_opened_is_the_photograph_s_fault(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.jpg").write_bytes(b"x")
    with pytest.raises(PhotoError):
        fetch_photo(str(tmp_path / name))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(PhotoError, match="got a folder, a pipe or a device"):
        fetch_photo(str(tmp_path / "pipe.jpg"))


def test_a_fault_of_the_store_is_not_the_photograph_s(tmp_path, monkeypatch):
    @contextmanager
    def broken(self, name):
        raise OSError(errno.EIO, "disk")
        yield

    monkeypatch.setattr(Folder, "open", broken)
    with pytest.raises(OSError, match="disk"):
        fetch_photo(str(tmp_path / "a.jpg"))
