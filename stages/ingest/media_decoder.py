"""Opens media files of users, which are untrusted, and decodes them past errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition, Stream

from infinitedub.stages.errors import BadInput

CONTAINER_FORMATS = (
    "mov,mp4,m4v,matroska,webm,avi,asf,flv,mpegts,mpeg,mpegvideo,mxf,gxf,dv,nut,ogg,ivf,obu,h264,hevc,"
    "wav,w64,aiff,caf,au,flac,mp3,aac,ac3,eac3,amr,amrnb,amrwb,ape,wv,tta"
)
"""The formats that may be opened: those that hold their own content. Playlists and similar formats (hls, dash, concat, image2, sdp) are not
allowed, since they make FFmpeg read other files and addresses."""

FORMATS_WITH_DURATION = frozenset({"mov", "matroska", "avi", "asf", "flv"})
"""Formats whose header states the duration. FFmpeg measures or guesses the duration of other formats from the bytes of the file."""

ROUNDING_SECONDS = Fraction(1, 10)  # the largest error that comes from rounding to whole frames and blocks

SUPPORTED = "wanted is a photograph (PNG, JPEG, WEBP, ...), footage (MP4, MOV, MKV, WEBM, AVI, ...) or sound (WAV, FLAC, MP3, M4A, OGG, ...)"

HEIF_BRANDS = frozenset({"heic", "heix", "heim", "heis", "mif1", "msf1"})


@contextmanager
def open_media(path: Path, max_pixels: int) -> Iterator[InputContainer]:
    """Opens a file of one of `CONTAINER_FORMATS`, detected by its content. Raises BadInput for any other.

    FFmpeg decodes some frames of every stream to detect its properties; it skips frames of more than `max_pixels`.
    """
    options = {"format_whitelist": CONTAINER_FORMATS, "protocol_whitelist": "file", "max_pixels": str(max_pixels)}
    try:
        container = av.open(str(path), options=options)
    except av.error.ArgumentError as error:  # raised for a format that is not in the whitelist
        raise BadInput(f"has a format that is not allowed, such as a playlist or a list of other files; {SUPPORTED}") from error
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        raise BadInput(f"is not a media file, or is cut short so that its index is missing; {SUPPORTED}") from error
    with container:
        if container.metadata.get("major_brand", "").strip() in HEIF_BRANDS:
            raise BadInput("is a HEIF photograph, which is not supported; save it as JPEG or PNG")
        yield container


@dataclass
class StreamDecoder:
    """Iterates over the frames of a stream, skips broken packets, and counts what could be decoded."""

    container: InputContainer
    stream: Stream
    n_packets: int = 0
    n_broken: int = 0  # packets that could not be decoded
    end_seconds: Fraction = field(default_factory=Fraction)  # where the last packet read ends, in any stream of the file

    def __iter__(self) -> Iterator[av.VideoFrame | av.AudioFrame]:
        try:
            for packet in self.container.demux():
                if packet.pts is not None and packet.time_base is not None:
                    self.end_seconds = max(self.end_seconds, (packet.pts + (packet.duration or 0)) * packet.time_base)
                if packet.stream.index == self.stream.index:  # packet.stream_index is 0 in the packets that flush the decoders
                    yield from self._decode(packet)
        except av.error.FFmpegError:
            self.n_broken += 1  # reading stops here; `check_complete` decides whether too much is missing

    def _decode(self, packet: av.Packet) -> Iterator[av.VideoFrame | av.AudioFrame]:
        self.n_packets += packet.size > 0
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            self.n_broken += 1
            return
        for frame in frames:
            self.n_broken += frame.is_corrupt
            yield frame

    def check_complete(self, decoded_seconds: Fraction, min_decoded_fraction: float) -> None:
        """Raises BadInput if less could be decoded than the file announces."""
        # Some formats count the announced duration from 0, others from the first frame: if time stamps begin late, the longer reading is used.
        file_start = Fraction(self.container.start_time or 0, av.time_base)
        stream_start = (self.stream.start_time or 0) * Fraction(self.stream.time_base or 0)
        file_duration = Fraction(self.container.duration, av.time_base) if self.container.duration else None
        checks: tuple[tuple[Fraction | None, Fraction], ...] = (
            (file_duration, max(self.end_seconds, self.end_seconds - file_start)),
            (announced_seconds(self.stream), decoded_seconds + max(stream_start, Fraction(0))),
        )
        for announced, decoded in checks if set(self.container.format.name.split(",")) & FORMATS_WITH_DURATION else ():
            if announced and decoded + ROUNDING_SECONDS < announced * Fraction(min_decoded_fraction):
                raise BadInput(
                    f"is cut short or damaged: it announces {float(announced):.2f} s, only {float(decoded):.2f} s could be decoded; "
                    "supply the whole file, or accept the loss by a lower ingest.min_decoded_fraction"
                )
        if self.n_broken > self.n_packets * (1 - min_decoded_fraction):
            raise BadInput(f"is damaged: {self.n_broken} of {self.n_packets} packets could not be decoded; supply an undamaged file")


def announced_seconds(stream: Stream) -> Fraction | None:
    """The duration of a stream according to the header, in seconds; None if it is not stated."""
    if stream.type == "video" and stream.container.format.name == "avi" and stream.frames and stream.average_rate:
        return stream.frames / stream.average_rate  # FFmpeg corrects the duration of an AVI to the bytes of the file
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    duration = stream.metadata.get("DURATION", "").split(":")  # as FFmpeg writes it into Matroska: 00:00:10.000000000
    try:
        hours, minutes, seconds = (Fraction(part) for part in duration)
    except (ValueError, ZeroDivisionError):
        return None
    return hours * 3600 + minutes * 60 + seconds


def video_stream(container: InputContainer, max_pixels: int) -> av.VideoStream:
    """The best video stream of a file. Raises BadInput if there is none; cover art does not count.

    The file may announce small frames and continue with large ones: a frame of more than `max_pixels` counts as broken and is not decoded.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    stream = best if best in streams else next(iter(streams), None)
    if stream is None:
        raise BadInput("has no picture, only sound; the source of a job is a photograph or footage")
    if stream.codec_context is None:
        raise BadInput("holds its picture in a codec that is not supported; convert it to H.264")
    stream.codec_context.options = {"max_pixels": str(max_pixels)}
    return stream


def audio_stream(container: InputContainer) -> av.AudioStream:
    """The best audio stream of a file. Raises BadInput if there is none."""
    stream = container.streams.best("audio")
    if stream is None:
        raise BadInput("has no sound; speech is a sound file, or a video file with a sound track")
    if stream.codec_context is None:
        raise BadInput("holds its sound in a codec that is not supported; convert it to WAV or FLAC")
    return stream
