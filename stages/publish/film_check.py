"""The last look at a film before anybody else sees it."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from infinitedub.stages.records import Film


@dataclass(frozen=True, slots=True)
class Seen:
    """What a player finds in a film."""

    width: int
    height: int
    frames: int
    picture_seconds: float
    sound_seconds: float
    picture_codec: str
    sound_codec: str
    sample_rate: int
    channels: int


def look_through(path: Path) -> Seen:
    """Opens a film and decodes it to its end. Raises ValueError where it is not one picture and one sound, or breaks off."""
    frames = samples = 0
    try:
        with av.open(str(path)) as container:
            if len(container.streams.video) != 1 or len(container.streams.audio) != 1:
                pictures, sounds = len(container.streams.video), len(container.streams.audio)
                raise ValueError(f"{path.name} has {pictures} pictures and {sounds} sounds, wanted is one of each")
            picture, sound = container.streams.video[0], container.streams.audio[0]
            picture.thread_type = "AUTO"
            for packet in container.demux(picture, sound):
                for frame in packet.decode():
                    if isinstance(frame, av.VideoFrame):
                        frames += 1
                    else:
                        samples += frame.samples
            seen, heard = picture.codec_context, sound.codec_context
            # What an encoder adds to fill its last block is decoded, but not played.
            spoken = min(Fraction(samples, heard.sample_rate), played_seconds(sound))
            return Seen(
                *(seen.width, seen.height, frames, float(played_seconds(picture)), float(spoken)),
                *(seen.name, heard.name, heard.sample_rate, heard.layout.nb_channels),
            )
    except av.error.FFmpegError as error:
        raise ValueError(f"{path.name} cannot be played to its end: {error}") from error


def played_seconds(stream: av.VideoStream | av.AudioStream) -> Fraction:
    """How long the file says that a stream is played."""
    return Fraction(stream.duration or 0) * Fraction(stream.time_base or 0)


def check(seen: Seen, film: Film) -> None:
    """Raises ValueError for a film that is not what its record says: every frame there, picture and sound of the right length to one frame."""
    frame, wanted = 1 / film.fps, film.frames / film.fps
    if seen.frames != film.frames:
        raise ValueError(f"the film holds {seen.frames} frames, its record says {film.frames}")
    for what, seconds in (("picture", seen.picture_seconds), ("sound", seen.sound_seconds)):
        if abs(seconds - wanted) > frame:
            raise ValueError(f"the film's {what} lasts {seconds:.3f} s, its {film.frames} frames at {film.fps:g}/s last {wanted:.3f} s")
