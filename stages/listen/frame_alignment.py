"""Aligns a voice with the frames of the film."""

from dataclasses import dataclass

from infinitedub.stages.model.speech_encoder import FRAME_SAMPLES, SAMPLE_RATE

FRAME_RATE = SAMPLE_RATE // FRAME_SAMPLES
"""Feature rows a second, and so frames a second of the film: what InfiniteTalk was trained on."""


@dataclass(frozen=True, slots=True)
class FrameAlignment:
    """The whole film frames that contain a voice, and the silence that fills them, in samples at the encoder's rate."""

    first_frame: int
    frames: int
    lead_samples: int  # silence before the voice
    tail_samples: int  # silence after it


def align_to_frames(start_sample: int, sample_rate: int, n_samples: int) -> FrameAlignment:
    """The frames of a voice of `n_samples` at the encoder's rate that begins at `start_sample`, counted at `sample_rate`; exact to a sample."""
    start = (start_sample * SAMPLE_RATE + sample_rate // 2) // sample_rate  # rounded to the nearest sample
    first_frame, lead_samples = divmod(start, FRAME_SAMPLES)
    frames = max(1, -(-(lead_samples + n_samples) // FRAME_SAMPLES))
    return FrameAlignment(first_frame, frames, lead_samples, frames * FRAME_SAMPLES - lead_samples - n_samples)
