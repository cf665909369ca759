"""Photographs from anywhere: fetched, decoded safely, upright, in RGB."""

import errno
import io
import warnings

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from manifests.schemas import FaceStatus
from tasks.store.faults import StoreError
from tasks.store.folders import is_file, split_url

MAX_PIXELS = 100_000_000
MAX_BYTES = 256 * 2**20
# Pixels times scans of a JPEG. A file of half a megabyte can hold a thousand scans of a hundred
# megapixels, which decode in minutes; cameras write at most a dozen.
MAX_SCANNED_PIXELS = 4_000_000_000

# Pillow's other readers are rarely used, and some of them run programs.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
# How files of telephones that none of these readers takes begin, after their first four bytes.
_BRANDS = {
    **dict.fromkeys((b"ftypheic", b"ftypheix", b"ftypheim", b"ftypmif1", b"ftyphevc"), "HEIC"),
    **dict.fromkeys((b"ftypavif", b"ftypavis"), "AVIF"),
}
_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# See `tasks.photos.listing_table.as_text`.
_ESCAPED = "; where \\udc stands for a byte of its name that is not UTF-8, rename it"
# Errors of a directory's file that are the same whenever one tries again.
_LASTING = {errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EPERM}

# Pillow refuses twice as many before it looks at the rest of a file, and warns from here on, which
# the row of the photograph says.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class PhotoError(ValueError):
    """A photograph cannot be used.

    Attributes:
        status: For the row of the photograph.
    """

    def __init__(self, status: FaceStatus, message: str) -> None:
        super().__init__(message)
        self.status: FaceStatus = status


def fetch_photo(source_uri: str) -> bytes:
    """Return the bytes of a photograph.

    Raises:
        PhotoError: There is no such file, it may not be read, or it is over MAX_BYTES. Faults of
            the store that may pass are raised as they are.
    """
    folder, name = split_url(source_uri)
    try:
        if folder.is_local and folder.exists(name) and not is_file(source_uri):
            # Opening a pipe would wait for whoever writes it.
            raise PhotoError("unreadable", "got a folder, a pipe or a device, expected a file")
        with folder.open(name) as file:
            content: bytes = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError):
        told = _ESCAPED if "\\udc" in source_uri else ""
        raise PhotoError("unreadable", f"no such file{told}") from None
    except OSError as error:
        if not folder.is_local or error.errno not in _LASTING:
            raise
        raise PhotoError("unreadable", f"cannot be opened: {error.strerror}") from error
    except StoreError as error:
        # Of this photograph alone, such as one that is gone or that is kept from us.
        if not error.lasting or error.everywhere:
            raise
        raise PhotoError("unreadable", f"cannot be opened: {error}") from error
    if len(content) > MAX_BYTES:
        raise PhotoError("unreadable", f"got more than {MAX_BYTES:,} bytes, expected at most those")
    return content


def read_photo(content: bytes) -> Image.Image:
    """Decode a photograph as people see it: the first frame, upright, on white, in RGB.

    Args:
        content: Bytes of a BMP, GIF, JPEG, PNG, TIFF or WebP file, whatever its name says.

    Returns:
        RGB image. Its `info` holds "icc_profile" where the colours are not known to be sRGB, see
        `to_srgb`, and nothing else.

    Raises:
        PhotoError: It is no such file, damaged or cut off, over MAX_PIXELS, or has pixels that are
            no colours.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as file:
            _check_effort(file, content)
            file.load()
            turn = _TURNS.get(_orientation(file))
            image = _to_rgb(file)
    except PhotoError:
        raise
    except UnidentifiedImageError:
        names = ", ".join(_FORMATS)
        message = f"got {len(content):,} bytes of something else, expected an image of {names}"
        if brand := _BRANDS.get(content[4:12]):
            message = f"got a {brand} picture, expected one of {names}; convert it to JPEG"
        raise PhotoError("unreadable", message) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PhotoError("unreadable", _too_many_pixels("many more")) from None
    except Exception as error:
        # Pillow's readers raise errors of every kind on damaged files.
        message = f"the image is damaged: {error or type(error).__name__}"
        raise PhotoError("unreadable", message) from error
    return image if turn is None else image.transpose(turn)


def to_srgb(image: Image.Image) -> Image.Image:
    """Convert RGB colours from the image's own profile, and return it without any `info`.

    A profile that is damaged or not for RGB is left unused, as viewers do.
    """
    image = image.copy()
    profile = image.info.get("icc_profile")
    image.info = {}
    return image if profile is None else _from_profile(image, profile) or image


def _check_effort(image: Image.Image, content: bytes) -> None:
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise PhotoError("unreadable", _too_many_pixels(f"{image.width} x {image.height}"))
    if image.format in {"JPEG", "MPO"}:
        scans = content.count(b"\xff\xda")
        if scans * pixels > MAX_SCANNED_PIXELS:
            message = f"got {scans} scans of {pixels:,} pixels, expected at most a dozen scans"
            raise PhotoError("unreadable", message)


def _too_many_pixels(got: str) -> str:
    return f"got {got} pixels, expected at most {MAX_PIXELS:,}; reduce the photograph"


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:
        # EXIF that cannot be read says nothing; the picture is still good.
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode in {"F", "I"}:
        raise PhotoError("unreadable", "got pixels of 32 bits, expected 8 or 16; convert the image")
    if image.mode == "CMYK" and profile:
        converted = _from_profile(image, profile)
        if converted is not None:
            return converted
    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.uint8(np.asarray(image) >> 8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(image, mask=image)
    else:
        rgb = image.convert("RGB")
    is_other = profile and image.mode in {"RGB", "RGBA", "P"} and not _is_srgb(profile)
    rgb.info = {"icc_profile": profile} if is_other else {}
    return rgb


def _is_srgb(profile: bytes) -> bool:
    try:
        return "sRGB" in ImageCms.getProfileDescription(io.BytesIO(profile))
    except (ImageCms.PyCMSError, OSError):
        return False


def _from_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Convert to sRGB; None where the profile cannot do it."""
    try:
        converted = ImageCms.profileToProfile(
            image, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    if converted is not None:
        converted.info = {}
    return converted
