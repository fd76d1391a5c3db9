"""Encoded bytes to a PIL picture, and any PIL picture to upright 8-bit RGB."""

import codecs
import io
import logging
import re
import warnings

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from salhub.data.picture_arrays import array_to_image

logger = logging.getLogger(__name__)

# The number of pixels from which Pillow itself warns of a decompression bomb: 268 MB as RGB.
MAX_PIXELS = 89_478_485

# PostScript is a program, which Pillow would hand to Ghostscript; of films it knows only the size.
_NOT_DECODED = frozenset({"EPS", "MPEG"})
_WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_SIGNATURES = (
    (b"%PDF", "it is a PDF document; save the page as PNG first"),
    (b"%!PS", "it is PostScript; save it as PNG first"),
    (b"PK\x03\x04", "it is a ZIP archive; unpack it first"),
    (b"\x1f\x8b", "it is gzip-compressed; unpack it first"),
    (b"\x93NUMPY", "it is a NumPy file; pass numpy.load(path)"),
    (b"version https://git-lfs", "it is a Git LFS pointer; run 'git lfs pull' first"),
)

_PICTURE_STARTS = (
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"RIFF", "WebP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
)


def picture_endings() -> tuple[str, ...]:
    """Return the endings of the files that are read as pictures: those that Pillow opens.

    A package that teaches Pillow another format, such as pillow-heif, adds its endings.

    Example:
        >>> {".jpg", ".jfif", ".avif"} <= set(picture_endings()), ".pdf" in picture_endings()
        (True, False)
    """
    found = Image.registered_extensions()
    return tuple(sorted(ending for ending, kind in found.items() if _is_decoded(kind)))


def _is_decoded(kind: str) -> bool:
    # Of some formats Pillow only writes files, and of others it only knows the name.
    opener = Image.OPEN.get(kind, (None, None))[0]
    is_stub = isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)
    return opener is not None and not is_stub and kind not in _NOT_DECODED


def decode_picture(data: bytes, name: str) -> Image.Image:
    """Decode the first frame of a picture, after looking at its size.

    Args:
        data: The bytes of a JPEG, PNG, GIF, WebP, TIFF or any other format Pillow reads.
        name: What to call it in messages, at the start of a sentence.

    Raises:
        ValueError: Empty, not a picture, cut short, or more than MAX_PIXELS pixels.
    """
    if not data:
        raise ValueError(f"{name} is empty (0 bytes); download or save the picture again.")
    image = _open(data, name)
    check_pixels(*image.size, name)
    if image.format == "EPS":
        raise ValueError(f"{name} cannot be read as a picture: {_SIGNATURES[1][1]}.")
    _load(image, name)
    return image


def losses(image: Image.Image) -> list[str]:
    """Say what of a loaded picture is not kept by `to_upright_rgb`.

    Args:
        image: Of any mode.

    Returns:
        Words that go on "3 pictures ...", none where nothing is lost.

    Example:
        >>> losses(Image.new("LA", (2, 2), (9, 128)))
        ['are partly transparent and put on white']
    """
    found = []
    if image.has_transparency_data:
        opacity = image if image.mode in ("RGBA", "LA", "PA") else image.convert("RGBA")
        if opacity.getchannel("A").getextrema()[0] < 255:
            found.append("are partly transparent and were placed on white")
    if image.mode in _WIDE_MODES:
        found.append("have more than 8 bits per channel and were reduced to 8")
    if getattr(image, "is_animated", False):
        found.append("have several frames, of which only the first is used")
    return found


def to_upright_rgb(image: Image.Image, name: str = "The picture") -> Image.Image:
    """Return a new 8-bit RGB picture, turned as its EXIF orientation says.

    Transparent parts are composited on white. 16-bit, 32-bit and float modes are read as
    `to_8_bit` reads arrays. Embedded colour profiles are ignored, as in the training pipelines of
    image classifiers.

    Raises:
        ValueError: No pixels, too many pixels, or data that cannot be decoded.
    """
    width, height = image.size
    if width == 0 or height == 0:
        raise ValueError(f"{name} has no pixels ({width} x {height}).")
    check_pixels(width, height, name)
    _load(image, name)
    image = _upright(image, name)
    if image.mode in _WIDE_MODES:
        is_16_bit = image.mode.startswith("I;16")
        image = array_to_image(np.asarray(image), channels_first=False, is_16_bit=is_16_bit)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    if image.mode == "LAB":
        return _lab_to_rgb(image)
    return image.convert("RGB")


def _open(data: bytes, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Our own limit is checked right after, with its own sentence.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        raise ValueError(_too_large(name, f"{pixels[0]} pixels" if pixels else "")) from None
    except UnidentifiedImageError:
        raise ValueError(f"{name} cannot be read as a picture: {_looks_like(data)}.") from None
    except Exception as error:
        # Decoders raise struct.error, KeyError, SyntaxError... on damaged headers.
        raise ValueError(f"{name} is damaged ({error}); save the picture again.") from None


def _load(image: Image.Image, name: str) -> None:
    try:
        image.load()
    except Exception as error:
        raise ValueError(
            f"{name} is damaged or cut short ({error}); download or save the picture again."
        ) from None


def check_pixels(width: int, height: int, name: str) -> None:
    """Refuse a picture of more than MAX_PIXELS pixels, whose header is read and nothing else.

    Args:
        width: In pixels.
        height: In pixels.
        name: What to call it, at the start of a sentence.

    Raises:
        ValueError: It is larger.
    """
    if width * height > MAX_PIXELS:
        raise ValueError(_too_large(name, f"{width} x {height} pixels"))


def _too_large(name: str, size: str) -> str:
    limit = f"{MAX_PIXELS / 1e6:.0f} million pixels"
    return f"{name} is too large ({size}); the limit is {limit}: save a smaller version."


def _upright(image: Image.Image, name: str) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:
        # Damaged metadata says nothing about the pixels.
        logger.warning("%s has unreadable EXIF data (%s); its orientation is ignored.", name, error)
        return image


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    transform = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
    return transform.apply(image)


def _looks_like(data: bytes) -> str:
    for signature, sentence in _SIGNATURES:
        if data.startswith(signature):
            return sentence
    for start, kind in _PICTURE_STARTS:
        if data.startswith(start):
            return f"it starts like a {kind} file but is damaged or cut short"
    if data[4:8] == b"ftyp":
        if data[8:12] in _HEIF_BRANDS:
            return (
                "it is a HEIC photo from a phone; save it as JPEG, or install pillow-heif "
                "and call pillow_heif.register_heif_opener()"
            )
        return "it is a video; save one frame of it as JPEG or PNG"
    head = data[:1024].lstrip().lower()
    if b"<svg" in head:
        return "it is an SVG drawing; save it as PNG first"
    if head.startswith((b"<!doctype html", b"<html")):
        return "it is a web page; give the address of the picture itself"
    if _is_text(head):
        return "it is text"
    return f"no known format starts with the bytes {data[:8].hex(' ')}"


def _is_text(head: bytes) -> bool:
    try:
        # Incremental, because the cut may go through a character of several bytes.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head
