"""Colour tags of decoded frames, and their conversion to the colour space of normalised footage."""

import av
from av.video.reformatter import ColorPrimaries, ColorTrc

from infinitedub.stages.media.encode import BT709, SMPTE170M

RGB, BT2020, BT2020_CONSTANT_LUMINANCE = 0, 9, 10  # as H.264 numbers the matrix (ITU-T H.273, table 4)
SWSCALE_MATRICES = frozenset({BT709, 4, 5, SMPTE170M, 7, BT2020})  # those that FFmpeg's scale filter supports
HDR_CURVES = frozenset({int(ColorTrc.SMPTE2084), int(ColorTrc.ARIB_STD_B67)})  # PQ and HLG
HD_HEIGHT = 720


def complete_color_tags(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame with valid colour tags. A missing or unsupported matrix is guessed from the frame size, as players do."""
    matrix = int(frame.colorspace)
    if frame.format.is_rgb or frame.format.name == "pal8":
        frame.colorspace = RGB
    elif matrix == BT2020_CONSTANT_LUMINANCE:  # no encoder is known to write it, so the common BT.2020 is meant
        frame.colorspace = BT2020
    elif matrix not in SWSCALE_MATRICES:
        frame.colorspace = BT709 if min(frame.width, frame.height) >= HD_HEIGHT else SMPTE170M
    if int(frame.color_trc) in HDR_CURVES:
        frame.color_primaries = int(ColorPrimaries.BT2020)
    else:  # the transfer curves of the standard-range formats differ too little to be worth a conversion
        frame.color_trc = int(ColorTrc.UNSPECIFIED)
        frame.color_primaries = int(ColorPrimaries.UNSPECIFIED)
    return frame


def scale_arguments(frame: av.VideoFrame, width: int, height: int) -> str:
    """Arguments of FFmpeg's scale filter for a frame with complete colour tags: to this size, BT.601 in video range.

    High dynamic range keeps its shadows and middle tones, where faces are; everything above diffuse white is clipped.
    """
    arguments = f"{width}:{height}:flags=bicubic+accurate_rnd+full_chroma_int:out_color_matrix=smpte170m:out_range=limited"
    if int(frame.color_trc) in HDR_CURVES:
        arguments += ":out_transfer=bt709:out_primaries=bt709:intent=relative_colorimetric"
    return arguments
