"""Photographs of any make, as an upright RGB PNG."""

import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from logging import getLogger
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageCms, ImageOps, ImageSequence, UnidentifiedImageError

from infinitedub.stages.errors import BadInput
from infinitedub.stages.ingest.geometry import Picture, check_size, fitted_size
from infinitedub.stages.ingest.settings import IngestSettings
from infinitedub.stages.ingest.timing import Shown

log = getLogger(__name__)

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "PPM", "JPEG2000")
MOVING = frozenset({"PNG", "WEBP", "GIF", "AVIF"})  # formats whose several pictures follow in time; those of TIFF and MPO lie side by side
SHOWN_SECONDS = Fraction(1, 10)  # of a picture in an animation that does not say; what browsers do
CLOCK = Fraction(1, 1000)  # filters want time stamps that rise; when a picture is shown is said beside it

BROKEN = (
    *(OSError, ValueError, SyntaxError, TypeError, LookupError, EOFError, ArithmeticError, RuntimeError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow's many readers raise for a picture that is damaged."""


def open_photograph(path: Path, settings: IngestSettings) -> Image.Image | None:
    """The picture in a file, not yet decoded, or None where it is no picture. Raises BadInput for one that is too large or too small."""
    try:
        Image.init()
        image = Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        return None
    except Image.DecompressionBombError as error:
        raise BadInput(f"has more pixels than can be taken, which are at most {settings.max_pixels} ({error}); scale it down") from error
    except BROKEN as error:
        raise BadInput(f"is a damaged picture ({error}); supply an undamaged file") from error
    check_size(image.size, settings.max_pixels, settings.min_side_px)
    return image


def moves(image: Image.Image) -> bool:
    """Whether this is an animation, which counts as footage. Raises BadInput where it is damaged."""
    try:
        return image.format in MOVING and getattr(image, "is_animated", False)
    except BROKEN as error:
        raise BadInput(f"is a damaged {image.format} picture ({error}); supply an undamaged file") from error


def normalise_photograph(image: Image.Image, target: Path, settings: IngestSettings) -> Picture:
    """Writes a photograph as an RGB PNG: upright, in sRGB, nothing transparent, at most `max_side_px` long."""
    try:
        # The tag that says how the camera was held outlives no conversion: first things first.
        flat = flattened(ImageOps.exif_transpose(image), settings.alpha_color)
    except BROKEN as error:
        raise BadInput(f"is a damaged {image.format} picture ({error}); supply an undamaged file") from error
    size = fitted_size(flat.size, settings.max_side_px, even=False)
    final = flat if size == flat.size else flat.resize(size, Image.Resampling.LANCZOS)
    final.save(target, "PNG")
    return Picture(flat.size, size, 1)


def animation(image: Image.Image, settings: IngestSettings) -> Iterator[Shown[av.VideoFrame]]:
    """The pictures of an animation, with their times."""
    start = Fraction(0)
    try:
        for number, picture in enumerate(ImageSequence.Iterator(image)):
            check_size(picture.size, settings.max_pixels, settings.min_side_px)  # of a GIF the later pictures may be larger
            flat = np.asarray(flattened(picture.copy(), settings.alpha_color))
            duration = Fraction(picture.info.get("duration") or 0) / 1000 or SHOWN_SECONDS  # known once the picture is decoded
            frame = av.VideoFrame.from_ndarray(flat, format="rgb24")
            frame.pts, frame.time_base = number, CLOCK
            yield Shown(start, duration, frame)
            start += duration
    except BROKEN as error:
        raise BadInput(f"is a damaged {image.format} animation ({error}); supply an undamaged file") from error


def flattened(image: Image.Image, alpha_color: tuple[int, int, int]) -> Image.Image:
    """The picture in 8 bits, sRGB, on a ground of `alpha_color`, and without anything but its pixels."""
    profile = image.info.get("icc_profile")
    image = eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    if profile:
        image = in_srgb(image, profile)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*alpha_color, 255)), image)
    plain = image.convert("RGB")
    plain.info = {}
    return plain


def eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits brought to 8; everything else is 8 bits in Pillow's hands already. Raises BadInput for numbers without a known range."""
    if not image.mode.startswith(("I", "F")):
        return image
    grey = np.asarray(image)
    if image.mode == "F" or grey.min() < 0 or grey.max() > 0xFFFF:
        raise BadInput(f"holds {image.mode} numbers from {grey.min()} to {grey.max()}, not levels of 8 or 16 bits; save it with 8 bits per channel")
    return Image.fromarray((grey >> 8).astype(np.uint8))


def in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The picture's colours as sRGB has them; unchanged where the embedded profile is no good."""
    try:
        given = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(image, given, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        log.warning("the embedded colour profile is ignored: %s", error)
        return image
    return converted or image
