"""The one decoder of images from outside: for sources, foreign sets and artifacts the same file has the same pixels."""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import PIL.Image
import PIL.ImageOps

from distill_hub.config import InputError
from distill_hub.text import reason

# Pillow knows many more formats, and starts a program (Ghostscript) to read one of them (EPS).
CODECS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM")
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
DECODER = f"1, Pillow {PIL.__version__}"  # of decoded images that are kept; raised where `decode` or `square` changes them
READABLE = "PNG, JPEG, WebP, BMP, GIF, TIFF and PPM"
MAX_SIDE = 16_384  # pixels
MAX_PIXELS = 2**27  # 400 MB as RGB
SIDES = (32, 64, 128, 256)  # of squares in pixels, where nothing says another
LONGEST = 100  # times the shorter side: scaled up, a line of pixels would fill the memory
_TOO_LONG = f"no side may be more than {LONGEST} times the other"
_TOO_LARGE = f"it is larger than {MAX_SIDE:,} px a side or {MAX_PIXELS:,} px in all"
# What Pillow raises for a damaged file, or for one made to confuse it.
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error, TypeError, LookupError, OverflowError)


@contextmanager
def _opened(data: bytes) -> Iterator[PIL.Image.Image]:
    """Open an image of a size that is decoded; what its reader raises becomes a ValueError with one reason."""
    try:
        with warnings.catch_warnings():  # of a size that is checked here, of damaged remarks that nobody reads
            warnings.simplefilter("ignore")
            with PIL.Image.open(io.BytesIO(data), formats=CODECS) as image:
                if max(image.size) > MAX_SIDE or image.width * image.height > MAX_PIXELS:
                    raise ValueError(_TOO_LARGE)
                yield image
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(_TOO_LARGE) from error
    except PIL.UnidentifiedImageError as error:
        raise ValueError(f"it is not in a format that is read ({READABLE})") from error
    except _BROKEN as error:
        raise ValueError(reason(error)) from error


def size_of(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels as stored, from an image's header.

    Raises:
        ValueError: See `decode`.
    """
    with _opened(data) as image:
        return image.size


def check(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels as stored, and see to it that `decode` and `square` will take the image.

    The coefficients of a JPEG are all read, which finds whatever is missing, but an eighth of its pixels is made of them.

    Raises:
        ValueError: See `decode`; or for an image that `square` refuses.
    """
    with _opened(data) as image:
        size = image.size
        _refuse_unknown_range(image)
        if max(size) > LONGEST * min(size):
            raise ValueError(f"{size[0]} x {size[1]} px: {_TOO_LONG}")
        image.draft("RGB", (1, 1))  # of other formats: nothing
        image.load()
        return size


def _refuse_unknown_range(image: PIL.Image.Image) -> bool:
    """Return whether an image is of 16-bit values in Pillow's mode of 32 bits; refuse values without a known range."""
    deep = image.mode == "I" and image.format in ("PNG", "PPM")  # 16 bits, by those formats' definition
    if image.mode == "F" or (image.mode == "I" and not deep):
        raise ValueError(
            f"its values are {'floats' if image.mode == 'F' else '32-bit'}, of unknown range; save 8 or 16 bits"
        )
    return deep


def decode(data: bytes) -> PIL.Image.Image:
    """Decode the first frame of an encoded image as RGB of 8 bits, turned as its EXIF orientation says.

    16-bit grey is scaled by the type's range, 0..65535, whatever part of it an image uses; of 16-bit colour Pillow keeps the
    upper byte. An alpha channel is left out, as in the field's loaders.

    Raises:
        ValueError: For anything but a whole image in one of `CODECS` of at most 16 bits per channel and a size of at most
            `MAX_SIDE` and `MAX_PIXELS`: what is wrong, in one line.
    """
    with _opened(data) as image:
        deep = _refuse_unknown_range(image)
        image.load()
        PIL.ImageOps.exif_transpose(image, in_place=True)
        if deep or image.mode.startswith("I;16"):
            values = np.asarray(image).astype(np.uint32)
            return PIL.Image.fromarray(((values * 255 + 32_767) // 65_535).astype(np.uint8)).convert("RGB")
        return image.convert("RGB")


def side_for(median: int) -> int:
    """Return the side of the squares that images become: the largest of `SIDES` that they allow, or 16 px below 24.

    Args:
        median: Of their shorter sides in pixels.
    """
    return max((side for side in SIDES if side <= median), default=SIDES[0] if median >= 24 else 16)


def chosen_side(side: int, median: int, option: str, why: str = "") -> str:
    """Return the line that says which side was chosen for images, and by which option another one is."""
    shorter = f"their shorter side has {median} px, median"
    return f"The images become squares of {side} px ({shorter}){why}; --{option} names another size."


def square(image: PIL.Image.Image, size: int, resize: int | None = None) -> np.ndarray:
    """Scale the shorter side of an image (bilinear) and crop the centre, as torchvision's Resize and CenterCrop do.

    Args:
        image: Of any mode.
        size: Side of the result in pixels.
        resize: Length of the shorter side before the crop, at least `size`; default: `size`.

    Returns:
        uint8 RGB (size, size, 3).

    Raises:
        InputError: For an image that is more than 100 times as long as it is wide, or the other way round.
    """
    shorter, longer = sorted(image.size)
    if longer > LONGEST * shorter:
        raise InputError("image", f"{image.width} x {image.height} px", _TOO_LONG)
    scaled = [int((resize or size) * side / shorter) for side in image.size]
    left, top = (round((side - size) / 2) for side in scaled)
    whole = image.convert("RGB").resize(scaled, PIL.Image.Resampling.BILINEAR)
    return np.array(whole.crop((left, top, left + size, top + size)))
