"""The records that travel between stages.

Small, frozen, JSON-able, without tensors: media lives behind `Artifact`s. A stage makes its own record and pokes into nobody else's;
to know more, make a new record. Times on the film are counted in frames at the model's rate; spans are half-open.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that was kept: where it lies and which bytes it holds. Never changed once made."""

    uri: str
    sha256: str
    bytes: int
    kind: str  # what a reader finds inside, such as "picture/png", "footage/mp4", "sound/flac", "tensors/safetensors"


@dataclass(frozen=True, slots=True)
class Span:
    """Frames `start` to `stop`, the latter excluded."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"a span runs forward from 0, got [{self.start}, {self.stop})")

    @property
    def frames(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the upright picture, x to the right and y down; the maxima are excluded."""

    x_min: int
    y_min: int
    x_max: int
    y_max: int


# -- the catalogue row ------------------------------------------------------------------------------------------------


class Turns(StrEnum):
    """How two voices share the film."""

    TOGETHER = "together"  # both start at the beginning
    IN_TURN = "in_turn"  # the second starts when the first has ended


class Length(StrEnum):
    """What decides how long the film is."""

    AUDIO = "audio"  # as long as the speech; footage that ends sooner is held or bounced
    VIDEO = "video"  # as long as the footage; silence after the speech
    SHORTEST = "shortest"  # whichever ends first ends the film


@dataclass(frozen=True, slots=True)
class Speaker:
    """Somebody who is to speak: the new speech, and where in the picture the face is (needed only where there are two)."""

    speech: str  # URI of a sound or video file
    box: Box | None


@dataclass(frozen=True, slots=True)
class Material:
    """Everything of a job that comes from outside and has to be made safe before use."""

    picture: str  # URI of a photograph or of footage
    speakers: tuple[Speaker, ...]  # one or two; none only if the engine needs no speech
    turns: Turns


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the text encoder is told."""

    text: str
    negative: str


@dataclass(frozen=True, slots=True)
class Job:
    """One row of the catalogue: one film to be made."""

    id: str
    material: Material
    length: Length | None  # None: `audio` for a photograph, `video` for footage
    prompt: Prompt
    seed: int


# -- what the stages make of it ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Voice:
    """A speaker's sound, decoded once and kept losslessly at its own rate and channels: what the film will carry."""

    sound: Artifact  # "sound/flac"
    sample_rate: int
    n_samples: int  # per channel
    start_sample: int  # where on the film's sound track it begins, at `sample_rate`
    box: Box | None  # in pixels of `Source.picture`

    @property
    def stop_seconds(self) -> float:
        """When on the film this voice has ended."""
        return (self.start_sample + self.n_samples) / self.sample_rate


@dataclass(frozen=True, slots=True)
class Source:
    """A job's material made safe: upright, constant frame rate, decodable. Made by ingest, the only stage that opens user media."""

    picture: Artifact  # "picture/png" or "footage/mp4"
    moving: bool
    width: int
    height: int
    fps: float  # of `picture` where it moves, and of the film
    n_frames: int  # 1 for a photograph
    voices: tuple[Voice, ...]

    @property
    def speech_seconds(self) -> float:
        """When on the film the last voice has ended; 0 without voices."""
        return max((voice.stop_seconds for voice in self.voices), default=0.0)


@dataclass(frozen=True, slots=True)
class Window:
    """The frames one pass of the denoiser makes.

    The model always makes `span.frames + pad_frames` frames (a number of the form 4n+1). The first `overlap_frames` of them repeat the end of
    the window before and are dropped; the last `pad_frames` lie beyond the segment and are dropped too.
    """

    span: Span  # on the film
    overlap_frames: int
    pad_frames: int
    reference_frame: int  # the frame of `Source.picture` that shows the model what this window looks like

    @property
    def fresh(self) -> Span:
        """The frames that this window adds to the film."""
        return Span(self.span.start + self.overlap_frames, self.span.stop)


@dataclass(frozen=True, slots=True)
class Segment:
    """A shot, or a whole photograph job: what is scheduled, retried and rerun. Its windows are a chain; segments are independent."""

    index: int
    span: Span  # on the film
    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class Speech:
    """What the model hears: one feature row per film frame and speaker.

    The tensors are `speaker_{i}` [n_frames, layers, channels] for each voice and `silence` [layers, channels], the row for every frame beyond.
    """

    features: Artifact  # "tensors/safetensors"
    n_frames: int
    lufs: tuple[float | None, ...]  # integrated loudness of each voice as given; None where it is silent or too short to measure


@dataclass(frozen=True, slots=True)
class Seed:
    """Where a job's random numbers come from; each window draws its own from (value, job, segment, window)."""

    value: int
    job: str


@dataclass(frozen=True, slots=True)
class Conditions:
    """Everything the denoiser is told about a segment but the motion frames, which only the window before knows."""

    tensors: Artifact  # "tensors/safetensors"; the keys are listed in stages/condition/stage.py
    height: int  # of the frames to be made, pixels
    width: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The fresh frames of one window, encoded without loss."""

    window: int  # of the segment, from 0
    picture: Artifact  # "chunk/mkv"
    frames: int


@dataclass(frozen=True, slots=True)
class WindowCheckpoint:
    """A finished window, and what the next one starts from: enough to go on in another process, on another machine, with the same bits."""

    chunk: Chunk
    motion: Artifact | None  # "motion/safetensors": `frames` [1, 3, motion_frames, H, W], float32; None behind a segment's last window


@dataclass(frozen=True, slots=True)
class Clip:
    """A segment's frames, window by window."""

    segment: int
    span: Span
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class Film:
    """Picture and sound in one file."""

    file: Artifact  # "film/mp4"
    frames: int
    fps: float
    drift_ms: float  # end of the speech minus end of the picture; negative where silence follows the speech


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made a film, for its sidecar: enough to make it again."""

    run: str
    config: dict[str, Any]
    weights: str  # digest of the model's files
    versions: dict[str, str]
    seconds: dict[str, float]  # worked per stage, neither waiting nor reused results counted


@dataclass(frozen=True, slots=True)
class Receipt:
    """The job is done: the film lies here."""

    uri: str
    sha256: str
    bytes: int
    sidecar: str
