"""From sound to feature rows on the film's timeline."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from infinitedub.stages.listen.loudness import is_silent, measure
from infinitedub.stages.listen.recording import Levelled
from infinitedub.stages.listen.settings import ListenSettings
from infinitedub.stages.listen.timeline import FRAME_RATE, place
from infinitedub.stages.model.speech_encoder import SAMPLE_RATE, MonoSamples, SpeechEncoder
from infinitedub.stages.model.tensorfile import allocate_tensorfile
from infinitedub.stages.records import Voice

SILENCE_SECONDS = 4
"""Digital silence the encoder hears to say what silence is; the row in its middle is far from both ends."""
HUSH_ROWS = 256  # written at once


def silence_row(encoder: SpeechEncoder) -> np.ndarray:
    """The features [layers, channels] of a frame in which nobody speaks."""
    rows = encoder(np.zeros(SILENCE_SECONDS * SAMPLE_RATE, np.float32))
    return rows[SILENCE_SECONDS * FRAME_RATE // 2].float().cpu().numpy()


def hear(
    path: Path, voices: Sequence[Voice], sounds: Sequence[MonoSamples], silence: np.ndarray, encoder: SpeechEncoder, settings: ListenSettings
) -> tuple[int, tuple[float | None, ...]]:
    """Writes the features of each voice's sound (mono float32 at 16 kHz) to `path`, silence wherever it does not speak.

    Gives the number of frames, up to the end of the one in which the last voice ends, and each voice's loudness.
    """
    places = [place(voice.start_sample, voice.sample_rate, len(sound)) for voice, sound in zip(voices, sounds, strict=True)]
    n_frames = max(one.first_frame + one.frames for one in places)
    shapes = {f"speaker_{index}": (n_frames, *silence.shape) for index in range(len(voices))}
    layout = {name: torch.empty(shape, device="meta") for name, shape in {**shapes, "silence": silence.shape}.items()}
    starts = allocate_tensorfile(path, layout)
    loudness = []
    with path.open("r+b") as file:
        file.seek(starts["silence"])
        file.write(silence.tobytes())
        for index, (sound, where) in enumerate(zip(sounds, places, strict=True)):
            lufs = measure(sound, SAMPLE_RATE)
            loudness.append(lufs)
            file.seek(starts[f"speaker_{index}"])
            if is_silent(sound, SAMPLE_RATE, lufs, settings.silence_lufs):
                write_hush(file, silence, n_frames)
                continue
            heard = Levelled(sound, lufs, settings.target_lufs, where.lead, where.tail)
            write_hush(file, silence, where.first_frame)
            frames = 0
            for piece in encoder.encode_in_chunks(heard, settings.chunk_seconds, settings.context_seconds):
                file.write(piece.float().cpu().numpy().tobytes())
                frames += len(piece)
            if frames != where.frames:  # the encoder gives a row for each whole frame, and whole frames are what it was given
                raise RuntimeError(f"the encoder gave {frames} rows for {where.frames} frames of sound")
            write_hush(file, silence, n_frames - where.first_frame - where.frames)
    return n_frames, tuple(loudness)


def write_hush(file: BinaryIO, silence: np.ndarray, frames: int) -> None:
    """The row of silence, so many times."""
    row = silence.tobytes()
    for start in range(0, frames, HUSH_ROWS):
        file.write(row * min(HUSH_ROWS, frames - start))
