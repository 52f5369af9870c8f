"""Where on the film a voice is heard."""

from dataclasses import dataclass

from infinitedub.stages.model.speech_encoder import FRAME_SAMPLES, SAMPLE_RATE

FRAME_RATE = SAMPLE_RATE // FRAME_SAMPLES
"""Feature rows a second, and so frames a second of the film: what InfiniteTalk was trained on."""


@dataclass(frozen=True, slots=True)
class Place:
    """Whole film frames that hold a voice, and the silence that fills them up, in samples of the encoder's rate."""

    first_frame: int
    frames: int
    lead: int  # silence before the voice
    tail: int  # silence after it


def place(start_sample: int, sample_rate: int, n_samples: int) -> Place:
    """The frames of a voice of `n_samples` at the encoder's rate that begins at `start_sample`, counted at `sample_rate`; exact to a sample."""
    start = (start_sample * SAMPLE_RATE + sample_rate // 2) // sample_rate  # nearest
    first_frame, lead = divmod(start, FRAME_SAMPLES)
    frames = max(1, -(-(lead + n_samples) // FRAME_SAMPLES))
    return Place(first_frame, frames, lead, frames * FRAME_SAMPLES - lead - n_samples)
