"""A user's media file, opened with suspicion and decoded as far as it goes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition, Stream

from infinitedub.stages.errors import BadInput

FORMATS = (
    "mov,mp4,m4v,matroska,webm,avi,asf,flv,mpegts,mpeg,mpegvideo,mxf,gxf,dv,nut,ogg,ivf,obu,h264,hevc,"
    "wav,w64,aiff,caf,au,flac,mp3,aac,ac3,eac3,amr,amrnb,amrwb,ape,wv,tta"
)
"""What may be opened: formats that hold their own content. Playlists and the like (hls, dash, concat, image2, sdp), which make FFmpeg read
other files and addresses, are not among them."""

ANNOUNCING = frozenset({"mov", "matroska", "avi", "asf", "flv"})
"""Formats whose header says how long the file is. The others' duration is measured or guessed from the bytes that are there."""

ROUNDING_SECONDS = Fraction(1, 10)  # what rounding to whole frames and blocks may cost a short file

WANTED = "wanted is a photograph (PNG, JPEG, WEBP, ...), footage (MP4, MOV, MKV, WEBM, AVI, ...) or sound (WAV, FLAC, MP3, M4A, OGG, ...)"

HEIF = frozenset({"heic", "heix", "heim", "heis", "mif1", "msf1"})


@contextmanager
def open_media(path: Path, max_pixels: int) -> Iterator[InputContainer]:
    """An open file of one of `FORMATS`, found out by its content. Raises BadInput for anything else.

    FFmpeg decodes some frames of every stream to learn about it; of those with more than `max_pixels` it does not.
    """
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file", "max_pixels": str(max_pixels)}
    try:
        container = av.open(str(path), options=options)
    except av.error.ArgumentError as error:  # what FFmpeg makes of a format that is not on the list
        raise BadInput(f"is of a kind that is never opened here, such as a playlist or a list of other files; {WANTED}") from error
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        raise BadInput(f"is no media file, or was cut short so that its index is missing; {WANTED}") from error
    with container:
        if container.metadata.get("major_brand", "").strip() in HEIF:
            raise BadInput("is a HEIF photograph, which cannot be read here; save it as JPEG or PNG")
        yield container


@dataclass
class Decoding:
    """Iterates over the frames of a stream, past broken packets, and knows afterwards how much there was."""

    container: InputContainer
    stream: Stream
    packets: int = 0
    broken: int = 0  # packets that could not be decoded
    reached: Fraction = field(default_factory=Fraction)  # seconds into the file, in any of its streams

    def __iter__(self) -> Iterator[av.VideoFrame | av.AudioFrame]:
        try:
            for packet in self.container.demux():
                if packet.pts is not None and packet.time_base is not None:
                    self.reached = max(self.reached, (packet.pts + (packet.duration or 0)) * packet.time_base)
                if packet.stream.index == self.stream.index:  # packet.stream_index is 0 in the packets that drain the decoders
                    yield from self._decode(packet)
        except av.error.FFmpegError:
            self.broken += 1  # the file cannot be read on; what this costs is judged by `check_complete`

    def _decode(self, packet: av.Packet) -> Iterator[av.VideoFrame | av.AudioFrame]:
        self.packets += packet.size > 0
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            self.broken += 1
            return
        for frame in frames:
            self.broken += frame.is_corrupt
            yield frame

    def check_complete(self, decoded_seconds: Fraction, min_decoded_fraction: float) -> None:
        """Raises BadInput where less came out than the file announced."""
        # Some formats count the announced time from 0 and some from the first frame: a clock that begins late gets the benefit of the doubt.
        begin = Fraction(self.container.start_time or 0, av.time_base)
        stream_begin = (self.stream.start_time or 0) * Fraction(self.stream.time_base or 0)
        whole = Fraction(self.container.duration, av.time_base) if self.container.duration else None
        checks: tuple[tuple[Fraction | None, Fraction], ...] = (
            (whole, max(self.reached, self.reached - begin)),
            (announced_seconds(self.stream), decoded_seconds + max(stream_begin, Fraction(0))),
        )
        for announced, had in checks if set(self.container.format.name.split(",")) & ANNOUNCING else ():
            if announced and had + ROUNDING_SECONDS < announced * Fraction(min_decoded_fraction):
                raise BadInput(
                    f"is cut short or damaged: it announces {float(announced):.2f} s, only {float(had):.2f} s could be decoded; "
                    "supply the whole file, or accept the loss by a lower ingest.min_decoded_fraction"
                )
        if self.broken > self.packets * (1 - min_decoded_fraction):
            raise BadInput(f"is damaged: {self.broken} of {self.packets} packets could not be decoded; supply an undamaged file")


def announced_seconds(stream: Stream) -> Fraction | None:
    """How long the header says that a stream is, where it does."""
    if stream.type == "video" and stream.container.format.name == "avi" and stream.frames and stream.average_rate:
        return stream.frames / stream.average_rate  # the duration is corrected by FFmpeg to what is there
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    clock = stream.metadata.get("DURATION", "").split(":")  # as FFmpeg writes it into Matroska: 00:00:10.000000000
    try:
        hours, minutes, seconds = (Fraction(part) for part in clock)
    except (ValueError, ZeroDivisionError):
        return None
    return hours * 3600 + minutes * 60 + seconds


def picture_stream(container: InputContainer, max_pixels: int) -> av.VideoStream:
    """The best moving picture of a file. Raises BadInput where there is none; the cover of a record is none.

    The file may announce a small picture and go on with a large one: a frame of more than `max_pixels` counts as broken and is not decoded.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    stream = best if best in streams else next(iter(streams), None)
    if stream is None:
        raise BadInput("has no picture, only sound; the source of a job is a photograph or footage")
    if stream.codec_context is None:
        raise BadInput("holds its picture in a codec that cannot be decoded here; convert it to H.264")
    stream.codec_context.options = {"max_pixels": str(max_pixels)}
    return stream


def sound_stream(container: InputContainer) -> av.AudioStream:
    """The best sound of a file. Raises BadInput where there is none."""
    stream = container.streams.best("audio")
    if stream is None:
        raise BadInput("has no sound; speech is a sound file, or a video file with a sound track")
    if stream.codec_context is None:
        raise BadInput("holds its sound in a codec that cannot be decoded here; convert it to WAV or FLAC")
    return stream
