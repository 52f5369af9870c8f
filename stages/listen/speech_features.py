"""Computes the speech features of all voices, one row per film frame, and writes them to a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from infinitedub.stages.listen.frame_alignment import FRAME_RATE, align_to_frames
from infinitedub.stages.listen.loudness import is_silent, measure_loudness
from infinitedub.stages.listen.sample_file import NormalizedSamples
from infinitedub.stages.listen.settings import ListenSettings
from infinitedub.stages.model.speech_encoder import SAMPLE_RATE, MonoSamples, SpeechEncoder
from infinitedub.stages.model.tensorfile import allocate_tensorfile
from infinitedub.stages.records import Voice

SILENCE_SECONDS = 4
"""Length of the digital silence that is encoded to get the features of silence; the row in its middle is far from both ends."""
SILENT_ROWS_PER_WRITE = 256


def silence_row(encoder: SpeechEncoder) -> np.ndarray:
    """The features [layers, channels] of a frame without speech."""
    rows = encoder(np.zeros(SILENCE_SECONDS * SAMPLE_RATE, np.float32))
    return rows[SILENCE_SECONDS * FRAME_RATE // 2].float().cpu().numpy()


def write_speech_features(
    path: Path, voices: Sequence[Voice], sounds: Sequence[MonoSamples], silence: np.ndarray, encoder: SpeechEncoder, settings: ListenSettings
) -> tuple[int, tuple[float | None, ...]]:
    """Writes the features of each voice's sound (mono float32 at 16 kHz) to `path`, with the row `silence` for frames without speech.

    Returns the number of frames, up to the end of the one in which the last voice ends, and each voice's loudness.
    """
    alignments = [align_to_frames(voice.start_sample, voice.sample_rate, len(sound)) for voice, sound in zip(voices, sounds, strict=True)]
    n_frames = max(alignment.first_frame + alignment.frames for alignment in alignments)
    shapes = {f"speaker_{index}": (n_frames, *silence.shape) for index in range(len(voices))}
    layout = {name: torch.empty(shape, device="meta") for name, shape in {**shapes, "silence": silence.shape}.items()}
    offsets = allocate_tensorfile(path, layout)
    loudness = []
    with path.open("r+b") as file:
        file.seek(offsets["silence"])
        file.write(silence.tobytes())
        for index, (sound, alignment) in enumerate(zip(sounds, alignments, strict=True)):
            lufs = measure_loudness(sound, SAMPLE_RATE)
            loudness.append(lufs)
            file.seek(offsets[f"speaker_{index}"])
            if is_silent(sound, SAMPLE_RATE, lufs, settings.silence_lufs):
                write_silent_rows(file, silence, n_frames)
                continue
            samples = NormalizedSamples(sound, lufs, settings.target_lufs, alignment.lead_samples, alignment.tail_samples)
            write_silent_rows(file, silence, alignment.first_frame)
            n_rows = 0
            for rows in encoder.encode_in_chunks(samples, settings.chunk_seconds, settings.context_seconds):
                file.write(rows.float().cpu().numpy().tobytes())
                n_rows += len(rows)
            if n_rows != alignment.frames:  # the encoder returns one row per whole frame, and its input is whole frames
                raise RuntimeError(f"the encoder returned {n_rows} rows for {alignment.frames} frames of sound")
            write_silent_rows(file, silence, n_frames - alignment.first_frame - alignment.frames)
    return n_frames, tuple(loudness)


def write_silent_rows(file: BinaryIO, silence: np.ndarray, n_rows: int) -> None:
    """Writes the row `silence` `n_rows` times."""
    row = silence.tobytes()
    for start in range(0, n_rows, SILENT_ROWS_PER_WRITE):
        file.write(row * min(SILENT_ROWS_PER_WRITE, n_rows - start))
