"""What the numbers of a decoded frame mean, and what they are turned into."""

import av
from av.video.reformatter import ColorPrimaries, ColorTrc

RGB, BT709, UNSPECIFIED, SMPTE170M, BT2020 = 0, 1, 2, 6, 9  # as H.264 and its kin number the matrix (ITU-T H.273, table 4)
MATRICES = frozenset({BT709, 4, 5, SMPTE170M, 7, BT2020})  # those that swscale knows
HDR = frozenset({int(ColorTrc.SMPTE2084), int(ColorTrc.ARIB_STD_B67)})  # PQ and HLG
HD_HEIGHT = 720


def settled(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame with every colour tag meaning something: what is not said is guessed as players do, from the size."""
    matrix = int(frame.colorspace)
    if frame.format.is_rgb or frame.format.name == "pal8":
        frame.colorspace = RGB
    elif matrix == 10:  # BT.2020 with constant luminance, which nobody writes
        frame.colorspace = BT2020
    elif matrix not in MATRICES:
        frame.colorspace = BT709 if min(frame.width, frame.height) >= HD_HEIGHT else SMPTE170M
    if int(frame.color_trc) in HDR:
        frame.color_primaries = int(ColorPrimaries.BT2020)
    else:  # taken as it is: the differences between the standard ranges' curves are not worth a conversion
        frame.color_trc = int(ColorTrc.UNSPECIFIED)
        frame.color_primaries = int(ColorPrimaries.UNSPECIFIED)
    return frame


def scaling(frame: av.VideoFrame, width: int, height: int) -> str:
    """Arguments of FFmpeg's scale filter for a settled frame: to this size, BT.601 in video range.

    High dynamic range keeps its shadows and middle tones, where faces are; what outshines diffuse white is clipped.
    """
    arguments = f"{width}:{height}:flags=bicubic+accurate_rnd+full_chroma_int:out_color_matrix=smpte170m:out_range=limited"
    if int(frame.color_trc) in HDR:
        arguments += ":out_transfer=bt709:out_primaries=bt709:intent=relative_colorimetric"
    return arguments
