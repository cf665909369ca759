"""Where data came from: the code's version, and provenance inside pictures."""

import io
import json
from collections.abc import Mapping
from importlib.metadata import version

from PIL import Image
from PIL.PngImagePlugin import PngInfo

CODE_VERSION = version("styleclip-batch")
# What Pillow raises of a file that is no picture, or a damaged one.
PICTURE_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def png_bytes(image: Image.Image, facts: Mapping[str, object]) -> bytes:
    """Write a PNG that carries facts as JSON in a text chunk named `styleclip`."""
    info = PngInfo()
    info.add_itxt("styleclip", json.dumps(facts, ensure_ascii=False, sort_keys=True))
    sink = io.BytesIO()
    # Level 2 takes a quarter of the time of the default, for a tenth more bytes.
    image.save(sink, "PNG", pnginfo=info, compress_level=2)
    return sink.getvalue()


def webp_bytes(image: Image.Image, facts: Mapping[str, object]) -> bytes:
    """Write a lossless WebP that carries facts as JSON in its EXIF user comment."""
    exif = Image.Exif()
    exif[0x9286] = "styleclip " + json.dumps(facts, sort_keys=True)
    sink = io.BytesIO()
    image.save(sink, "WEBP", lossless=True, exif=exif)
    return sink.getvalue()


def read_facts(content: bytes) -> dict[str, object]:
    """Return the facts that a picture of ours carries; empty where it carries none."""
    with Image.open(io.BytesIO(content)) as image:
        text = str(image.info.get("styleclip", ""))
        comment = str(image.getexif().get(0x9286, ""))
    if comment.startswith("styleclip "):
        text = comment.removeprefix("styleclip ")
    facts: dict[str, object] = json.loads(text) if text else {}
    return facts
