"""Hostile photographs, through planning and alignment: each must become rows with a status."""

import io
import os
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from PIL import Image, ImageCms

from benchmarks.endurance.hostile.items import Item, damaged, drawing
from manifests.schemas import FACE_STATUSES
from tasks.photos.alignment import align_photos_shard, plan_photos
from tasks.photos.faces import faces_table
from tasks.photos.listing_table import ListingError, as_text

_PHOTO = Path(__file__).parents[3] / "demo" / "photos" / "person-4.jpg"
_SIDE = 160
_ORIENTATION = 0x0112
_WORKSPACE = "memory://fuzz-images"
_IMAGE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")

_NAMES = (
    *("CON", "nul.jpg", "a:b.jpg", "C:\\photos\\a.jpg", "..\\..\\x.png", "~", "-rf", "%2e%2e%2fx"),
    *("\x1b[31mred\x1b[0m.jpg", "bell\x07.jpg", "line\nbreak.jpg", "\x7f.jpg", "tab\t.jpg"),
    *("e\u0301.jpg", "\xe9.jpg", "\u202egpj.exe", "\U0001f642.jpg", "\ufeff.jpg", " .jpg"),
    *("x" * 240 + ".jpg", "....", "a.face1.jpg", "a--0123abcd.jpg", "a b#1?x=y.jpg", "[a]*.jpg"),
)


class Images:
    """Damaged, mislabelled, giant and strange photographs."""

    refusals = (ListingError,)

    def __init__(self, folder: Path, seed: int, canary: Path) -> None:
        self._folder, self._seed, self._canary = folder, seed, canary
        with Image.open(_PHOTO) as photo:
            self._face = photo.convert("RGB").resize((_SIDE, _SIDE))
        self._samples = dict(_samples(self._face))
        self._by_hand = [*_by_hand(self._samples, canary)]

    def good(self) -> Item:
        """Return a photograph of a face."""
        return Item("good", "face.png", self._samples["PNG"])

    def item(self, index: int) -> Item:
        """Return one photograph."""
        if index < len(self._by_hand):
            kind, made = self._by_hand[index]
            return Item(kind, _name(index, kind), made() if callable(made) else made)
        draw = drawing(self._seed, "images", index)
        sample = draw.choice([*self._samples])
        way, content = damaged(self._samples[sample], draw)
        if draw.random() < 0.2:
            further, content = damaged(content or b"\0", draw)
            way = f"{way}, {further}"
        return Item(f"{sample}: {way}", draw.choice(_NAMES) + draw.choice(("", ".jpg")), content)

    def judge(self, item: Item) -> str:
        """Align the photograph, and return its status."""
        folder = self._folder / "photos"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        with open(os.path.join(os.fsencode(folder), os.fsencode(item.name)), "wb") as file:  # noqa: PTH118, PTH123 a name that is no text
            file.write(item.content)
        store = fsspec.filesystem("memory")
        if store.exists(_WORKSPACE):
            store.rm(_WORKSPACE, recursive=True)
        (shard,) = plan_photos(_WORKSPACE, str(folder), 8)
        align_photos_shard(_WORKSPACE, shard, 64, "largest", 16.0)
        (row,) = faces_table(_WORKSPACE).to_pylist()
        _check(row, folder / item.name)
        return str(row["status"])


def _check(row: dict[str, Any], path: Path) -> None:
    assert row["source_uri"] == as_text(str(path)), f"got a row of {row['source_uri']}"
    assert _IMAGE_ID.fullmatch(row["image_id"]), f"got the image id {row['image_id']!r}"
    assert row["status"] in FACE_STATUSES, f"got the status {row['status']}"
    if row["status"] == "ok":
        with Image.open(io.BytesIO(fsspec.filesystem("memory").cat(row["crop_uri"]))) as crop:
            assert crop.size == (64, 64)
    else:
        assert row["error"], "got a status without an error"
        assert row["error"].isprintable(), f"got the error {row['error']!r}"


def _name(index: int, kind: str) -> str:
    if kind == "bytes that are no text in the name":
        return os.fsdecode(b"caf\xe9.jpg")
    return _NAMES[index % len(_NAMES)]


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the file of an image."""
    sink = io.BytesIO()
    # Copies, because Pillow leaves settings of one format in an image that trouble the next.
    if "append_images" in options:
        options["append_images"] = [frame.copy() for frame in options["append_images"]]
    image.copy().save(sink, kind, **options)
    return sink.getvalue()


def _samples(face: Image.Image) -> Iterator[tuple[str, bytes]]:
    """Good photographs of all formats and pixels."""
    frames = {"save_all": True, "append_images": [face.rotate(90), face.rotate(180)]}
    grey = np.asarray(face.convert("L"), np.uint16)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield "PNG", encode(face, "PNG")
    yield "JPEG", encode(face, "JPEG", quality=90)
    yield "progressive JPEG", encode(face, "JPEG", progressive=True)
    yield "CMYK JPEG", encode(face.convert("CMYK"), "JPEG")
    yield "MPO", encode(face, "MPO", **frames)
    yield "JPEG with profile", encode(face, "JPEG", icc_profile=srgb)
    for mode in ("P", "1", "L", "LA", "RGBA"):
        yield f"{mode} PNG", encode(face.convert(mode), "PNG")
    yield "16-bit PNG", encode(Image.fromarray(grey * 257), "PNG")
    yield "16-bit TIFF", encode(Image.fromarray(grey * 257), "TIFF")
    yield "32-bit TIFF", encode(Image.fromarray(np.float32(grey)), "TIFF")
    yield "CMYK TIFF", encode(face.convert("CMYK"), "TIFF")
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4"):
        image = face.convert("1") if compression == "group4" else face
        yield f"{compression} TIFF", encode(image, "TIFF", compression=compression)
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        yield f"animated {kind}", encode(face, kind, **frames)
    yield "WEBP", encode(face, "WEBP")
    yield "lossless WEBP", encode(face.convert("RGBA"), "WEBP", lossless=True)
    yield "BMP", encode(face, "BMP")
    for value in range(10):
        exif = Image.Exif()
        exif[_ORIENTATION] = value
        yield f"JPEG of orientation {value}", encode(face, "JPEG", exif=exif)


def _by_hand(
    samples: dict[str, bytes], canary: Path
) -> Iterator[tuple[str, bytes | Callable[[], bytes]]]:
    """Kind, and the content or, where that is large, what makes it."""
    png, jpeg = samples["PNG"], samples["JPEG"]
    yield "nothing", b""
    yield "bytes that are no text in the name", png
    yield "HTML", b"<!doctype html><script>alert(1)</script>"
    yield "SVG", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    program = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({canary}/eps) (w) file\n"
    yield "PostScript", program.encode()
    yield "zip", _zip({"a.png": png})
    yield "JPEG behind a zip", _zip({"a.png": png}) + jpeg
    yield "zip behind a JPEG", jpeg + _zip({"a.png": png})
    yield "PPM", b"P6 2 2 255 " + b"\0" * 12
    yield "ICO", encode(Image.new("RGB", (16, 16)), "ICO")
    for name, head in (("PNG", png[:33]), ("JPEG", jpeg[:200]), ("GIF", b"GIF89a\xff\xff\xff\xff")):
        yield f"{name} of a header alone", head
    yield "PNG of giant dimensions", _png(2**31 - 1, 2**31 - 1, b"")
    yield "PNG of no width", _png(0, 100, b"")
    yield "GIF of giant dimensions", samples["animated GIF"][:6] + b"\xff" * 4 + b"\xf7\0\0" + png
    yield "BMP of giant dimensions", _at(samples["BMP"], 18, struct.pack("<ii", 2**30, 2**30))
    yield "BMP of negative height", _at(samples["BMP"], 22, struct.pack("<i", -(2**31)))
    yield "TIFF of a thousand values a pixel", _tiff({256: 9, 257: 9, 258: 8, 277: 1000, 273: 8})
    yield "TIFF of giant dimensions", _tiff({256: 2**31, 257: 2**31, 258: 8, 277: 3, 273: 8})
    yield "TIFF whose directory is its own next", _tiff({256: 9, 257: 9, 258: 8}, following=8)
    yield "PNG of one row", encode(Image.new("L", (100_000, 1)), "PNG")
    yield "PNG of one column", encode(Image.new("L", (1, 100_000)), "PNG")
    yield "PNG of one pixel", encode(Image.new("RGBA", (1, 1)), "PNG")
    yield "GIF of many frames", _gif(3_000)
    bomb = zlib.compress(bytes(200 * 2**20), 9)
    yield "PNG with a text bomb", _with_chunk(png, b"zTXt", b"x\0\0" + bomb)
    yield "PNG with a profile bomb", _with_chunk(png, b"iCCP", b"x\0\0" + bomb)
    yield "PNG with pixels behind its last", _with_chunk(png, b"IDAT", bomb, before=b"IEND")
    yield "PNG with a damaged profile", _with_chunk(png, b"iCCP", b"x\0\0" + b"\xff" * 50)
    for name, value in (("a billion entries", b"\xff" * 4), ("a loop", b"\x08\0\0\0" * 30)):
        exif = b"Exif\0\0II*\0\x08\0\0\0" + value
        yield f"JPEG whose EXIF has {name}", encode(Image.open(io.BytesIO(png)), "JPEG", exif=exif)
    last = samples["progressive JPEG"].rindex(b"\xff\xda")
    scan = samples["progressive JPEG"][last:-2]
    yield "JPEG of 100,000 scans", samples["progressive JPEG"][:-2] + scan[:12] * 100_000
    yield "PNG of 90 megapixels in little", partial(_large, "PNG", "1", 9_400)
    yield "PNG of 400 megapixels in little", partial(_large, "PNG", "1", 20_000)
    yield "JPEG of 81 megapixels", partial(_large, "JPEG", "RGB", 9_000)
    yield "WEBP of 81 megapixels", partial(_large, "WEBP", "RGB", 9_000, quality=1, method=0)


def _large(kind: str, mode: str, side: int, **options: Any) -> bytes:
    return encode(Image.new(mode, (side, side), "white"), kind, **options)


def _zip(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return sink.getvalue()


def _at(content: bytes, place: int, value: bytes) -> bytes:
    return content[:place] + value + content[place + len(value) :]


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def _png(width: int, height: int, pixels: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(pixels))


def _with_chunk(png: bytes, kind: bytes, content: bytes, before: bytes = b"IDAT") -> bytes:
    place = png.index(before) - 4
    return png[:place] + _chunk(kind, content) + png[place:]


def _tiff(tags: dict[int, int], following: int = 0) -> bytes:
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)
    return b"II*\0\x08\0\0\0" + directory + bytes(300)


def _gif(frames: int) -> bytes:
    first = Image.new("P", (4, 4))
    others = [Image.new("P", (4, 4), i % 2) for i in range(frames)]
    return encode(first, "GIF", save_all=True, append_images=others)
