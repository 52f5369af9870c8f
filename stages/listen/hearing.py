"""From sound to feature rows on the film's timeline."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from stages.listen.loudness import is_silent, level, measure
from stages.listen.settings import ListenSettings
from stages.listen.timeline import FRAME_RATE, place
from stages.model.speech import SAMPLE_RATE, SpeechEncoder
from stages.model.tensorfile import create
from stages.records import Voice

SILENCE_SECONDS = 4
"""Digital silence the encoder hears to say what silence is; the row in its middle is far from both ends."""


def silence_row(encoder: SpeechEncoder) -> np.ndarray:
    """The features [layers, channels] of a frame in which nobody speaks."""
    rows = encoder(np.zeros(SILENCE_SECONDS * SAMPLE_RATE, np.float32))
    return rows[SILENCE_SECONDS * FRAME_RATE // 2].float().cpu().numpy()


def hear(
    path: Path, voices: Sequence[Voice], sounds: Sequence[np.ndarray], silence: np.ndarray, encoder: SpeechEncoder, settings: ListenSettings
) -> tuple[int, tuple[float | None, ...]]:
    """Writes the features of each voice's sound (mono float32 at 16 kHz) to `path`, silence wherever it does not speak.

    Gives the number of frames, up to the end of the one in which the last voice ends, and each voice's loudness.
    """
    places = [place(voice.start_sample, voice.sample_rate, len(sound)) for voice, sound in zip(voices, sounds, strict=True)]
    n_frames = max(one.first_frame + one.frames for one in places)
    shapes = {f"speaker_{index}": (n_frames, *silence.shape) for index in range(len(voices))}
    layout = {name: torch.empty(shape, device="meta") for name, shape in {**shapes, "silence": silence.shape}.items()}
    tensors = {name: tensor.numpy() for name, tensor in create(path, layout).items()}
    tensors["silence"][:] = silence
    loudness = []
    for index, (sound, where) in enumerate(zip(sounds, places, strict=True)):
        rows = tensors[f"speaker_{index}"]
        lufs = measure(sound, SAMPLE_RATE)
        loudness.append(lufs)
        stop = where.first_frame + where.frames
        if is_silent(sound, SAMPLE_RATE, lufs, settings.silence_lufs):
            rows[:] = silence
            continue
        rows[: where.first_frame] = silence
        rows[stop:] = silence
        heard = np.pad(level(sound, lufs, settings.target_lufs), (where.lead, where.tail))
        frame = where.first_frame
        for piece in encoder.in_chunks(heard, settings.chunk_seconds, settings.context_seconds):
            rows[frame : frame + len(piece)] = piece.float().cpu().numpy()
            frame += len(piece)
        if frame != stop:  # the encoder gives a row for each whole frame, and whole frames are what it was given
            raise RuntimeError(f"the encoder gave {frame - where.first_frame} rows for {where.frames} frames of sound")
    return n_frames, tuple(loudness)
