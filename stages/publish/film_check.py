"""Checks that a film decodes to its end and agrees with its record before it is delivered."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from infinitedub.stages.records import Film


@dataclass(frozen=True, slots=True)
class FilmProperties:
    """What decoding a film yields."""

    width: int
    height: int
    frames: int
    picture_seconds: float
    sound_seconds: float
    picture_codec: str
    sound_codec: str  # empty without sound; sound_seconds, sample_rate and channels are then 0
    sample_rate: int
    channels: int


def probe_film(path: Path, audio_streams: int = 1) -> FilmProperties:
    """Decodes a film to its end. Raises ValueError unless it holds one video stream and `audio_streams` audio streams, and can be decoded."""
    n_frames = n_samples = 0
    try:
        with av.open(str(path)) as container:
            if len(container.streams.video) != 1 or len(container.streams.audio) != audio_streams:
                n_video, n_audio = len(container.streams.video), len(container.streams.audio)
                raise ValueError(f"{path.name} has {n_video} video and {n_audio} audio streams; wanted are 1 and {audio_streams}")
            video, audio = container.streams.video[0], next(iter(container.streams.audio), None)
            video.thread_type = "AUTO"
            for packet in container.demux([stream for stream in (video, audio) if stream]):
                for frame in packet.decode():
                    if isinstance(frame, av.VideoFrame):
                        n_frames += 1
                    else:
                        n_samples += frame.samples
            video_codec = video.codec_context
            if audio is None:
                return FilmProperties(video_codec.width, video_codec.height, n_frames, float(stream_seconds(video)), 0.0, video_codec.name, "", 0, 0)
            audio_codec = audio.codec_context
            # The samples that an encoder adds to fill its last block are decoded, but not played.
            sound_seconds = min(Fraction(n_samples, audio_codec.sample_rate), stream_seconds(audio))
            return FilmProperties(
                *(video_codec.width, video_codec.height, n_frames, float(stream_seconds(video)), float(sound_seconds)),
                *(video_codec.name, audio_codec.name, audio_codec.sample_rate, audio_codec.layout.nb_channels),
            )
    except av.error.FFmpegError as error:
        raise ValueError(f"{path.name} cannot be decoded to its end: {error}") from error


def stream_seconds(stream: av.VideoStream | av.AudioStream) -> Fraction:
    """The duration of a stream according to the file's header."""
    return Fraction(stream.duration or 0) * Fraction(stream.time_base or 0)


def check_film(found: FilmProperties, film: Film) -> None:
    """Raises ValueError unless the film has the frames of its record, and video and audio of the right length to within one frame."""
    frame_seconds, film_seconds = 1 / film.fps, film.frames / film.fps
    if found.frames != film.frames:
        raise ValueError(f"the film holds {found.frames} frames, its record says {film.frames}")
    lengths = [("video", found.picture_seconds), *([("audio", found.sound_seconds)] if found.sound_codec else [])]
    for stream, seconds in lengths:
        if abs(seconds - film_seconds) > frame_seconds:
            raise ValueError(f"the film's {stream} lasts {seconds:.3f} s, its {film.frames} frames at {film.fps:g} fps last {film_seconds:.3f} s")
