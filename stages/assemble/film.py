"""Writes video and audio into one MP4 block by block, so that memory does not grow with the film."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer

from infinitedub.stages.assemble.settings import AssembleSettings
from infinitedub.stages.assemble.soundtrack import Soundtrack
from infinitedub.stages.media.audio_io import resample, to_audio_frame, to_float
from infinitedub.stages.media.encode import add_aac_audio, add_film_video, add_flac_audio, exact_rate, open_output, to_film_frame


def write_film(path: Path, frames: Iterator[np.ndarray], fps: float, sound: Soundtrack | None, settings: AssembleSettings) -> int:
    """Encodes (height, width, 3) uint8 RGB frames, at least one, with the soundtrack if there is one, and returns the number of frames.

    The same input gives the same bytes.
    """
    rate = exact_rate(fps)
    first = next(frames)
    size = (first.shape[1] + first.shape[1] % 2, first.shape[0] + first.shape[0] % 2)
    n_frames, n_samples = 0, 0
    with open_output(path, "mp4") as container:
        video = add_film_video(container, rate, size, settings.crf, settings.preset)
        audio = None if sound is None else add_audio_stream(container, sound, settings)
        audio_frames = iter(()) if sound is None or audio is None else encoder_frames(sound, audio.codec_context.sample_rate, settings)
        for pixels in chain([first], frames):
            frame = to_film_frame(pixels)
            frame.pts, frame.time_base = n_frames, 1 / rate
            container.mux(video.encode(frame))
            n_frames += 1
            # Video and audio advance together, since the muxer would otherwise buffer one of them until the other arrives.
            while audio and n_samples * rate < n_frames * audio.codec_context.sample_rate and (block := next(audio_frames, None)) is not None:
                block.pts, block.time_base = n_samples, Fraction(1, block.sample_rate)
                n_samples += block.samples
                container.mux(audio.encode(block))
        container.mux(video.encode(None))
        if audio:
            container.mux(audio.encode(None))
    return n_frames


def add_audio_stream(container: OutputContainer, sound: Soundtrack, settings: AssembleSettings) -> av.AudioStream:
    """The audio stream of the film, in the codec of the settings."""
    if settings.sound_codec == "flac":
        return add_flac_audio(container, sound.sample_rate, sound.layout, next(sound.blocks()).dtype)
    return add_aac_audio(container, sound.sample_rate, sound.layout, settings.aac_kbps)


def encoder_frames(sound: Soundtrack, sample_rate: int, settings: AssembleSettings) -> Iterator[av.AudioFrame]:
    """The soundtrack in the sample format and at the rate of the encoder."""
    blocks = sound.blocks()
    if settings.sound_codec == "aac":
        blocks = resample((to_float(block) for block in blocks), sound.layout, sound.sample_rate, sound.layout, sample_rate)
    for block in blocks:
        yield to_audio_frame(block, sound.layout, sample_rate)
