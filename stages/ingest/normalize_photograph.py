"""Normalises photographs of any format: an upright RGB PNG in sRGB."""

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
from infinitedub.stages.ingest.frame_timing import TimedFrame
from infinitedub.stages.ingest.geometry import NormalizedPicture, check_size, fit_size
from infinitedub.stages.ingest.settings import IngestSettings

log = getLogger(__name__)

IMAGE_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "PPM", "JPEG2000")
ANIMATED_FORMATS = frozenset({"PNG", "WEBP", "GIF", "AVIF"})  # their pictures follow each other in time; those of TIFF and MPO are pages
DEFAULT_FRAME_SECONDS = Fraction(1, 10)  # for a picture of an animation without a duration, as in browsers
PTS_TIME_BASE = Fraction(1, 1000)  # filters need increasing time stamps; the display time is in `TimedFrame`

DECODE_ERRORS = (
    *(OSError, ValueError, SyntaxError, TypeError, LookupError, EOFError, ArithmeticError, RuntimeError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow's readers raise for a damaged picture."""


def open_photograph(path: Path, settings: IngestSettings) -> Image.Image | None:
    """The picture in a file, not yet decoded, or None if the file is not a picture. Raises BadInput for one that is too large or too small."""
    try:
        Image.init()
        image = Image.open(path, formats=[name for name in IMAGE_FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        return None
    except Image.DecompressionBombError as error:
        raise BadInput(f"has more pixels than the limit of {settings.max_pixels} ({error}); scale it down, or raise ingest.max_pixels") from error
    except DECODE_ERRORS as error:
        raise BadInput(f"is a damaged picture ({error}); supply an undamaged file") from error
    check_size(image.size, settings.max_pixels, settings.min_side_px)
    return image


def is_animated(image: Image.Image) -> bool:
    """Whether this is an animation, which is treated as footage. Raises BadInput if it is damaged."""
    try:
        return image.format in ANIMATED_FORMATS and getattr(image, "is_animated", False)
    except DECODE_ERRORS as error:
        raise BadInput(f"is a damaged {image.format} picture ({error}); supply an undamaged file") from error


def normalize_photograph(image: Image.Image, target: Path, settings: IngestSettings) -> NormalizedPicture:
    """Writes a photograph as an RGB PNG: upright, in sRGB, opaque, its longer side at most `max_side_px`."""
    try:
        # Conversions drop the EXIF orientation, so it is applied first.
        upright = flatten(ImageOps.exif_transpose(image), settings.alpha_color)
    except DECODE_ERRORS as error:
        raise BadInput(f"is a damaged {image.format} picture ({error}); supply an undamaged file") from error
    size = fit_size(upright.size, settings.max_side_px, even=False)
    stored = upright if size == upright.size else upright.resize(size, Image.Resampling.LANCZOS)
    stored.save(target, "PNG")
    return NormalizedPicture(upright.size, size, 1)


def animation_frames(image: Image.Image, settings: IngestSettings) -> Iterator[TimedFrame[av.VideoFrame]]:
    """The pictures of an animation with their display times."""
    start = Fraction(0)
    try:
        for number, picture in enumerate(ImageSequence.Iterator(image)):
            check_size(picture.size, settings.max_pixels, settings.min_side_px)  # later pictures of a GIF may be larger than the first
            pixels = np.asarray(flatten(picture.copy(), settings.alpha_color))
            duration = Fraction(picture.info.get("duration") or 0) / 1000 or DEFAULT_FRAME_SECONDS  # available after the picture is decoded
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, PTS_TIME_BASE
            yield TimedFrame(start, duration, frame)
            start += duration
    except DECODE_ERRORS as error:
        raise BadInput(f"is a damaged {image.format} animation ({error}); supply an undamaged file") from error


def flatten(image: Image.Image, alpha_color: tuple[int, int, int]) -> Image.Image:
    """The picture as 8-bit sRGB over a background of `alpha_color`, without any metadata."""
    profile = image.info.get("icc_profile")
    image = to_eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    if profile:
        image = to_srgb(image, profile)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*alpha_color, 255)), image)
    rgb = image.convert("RGB")
    rgb.info = {}
    return rgb


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Reduces 16-bit grey to 8 bits; Pillow decodes every other mode to 8 bits. Raises BadInput for numbers without a known range."""
    if not image.mode.startswith(("I", "F")):
        return image
    grey = np.asarray(image)
    if image.mode == "F" or grey.min() < 0 or grey.max() > 0xFFFF:
        raise BadInput(f"holds {image.mode} numbers from {grey.min()} to {grey.max()}, not levels of 8 or 16 bits; save it with 8 bits per channel")
    return Image.fromarray((grey >> 8).astype(np.uint8))


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The picture converted from the embedded ICC profile to sRGB; unchanged if the profile is invalid."""
    try:
        source_profile = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(image, source_profile, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        log.warning("the embedded colour profile is ignored: %s", error)
        return image
    return converted or image
