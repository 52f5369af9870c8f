"""The records that travel between stages.

Small, frozen, JSON-able, without tensors: media are files behind `Artifact`s. Each stage makes a record of its own type and never changes another's;
for further information make a new record. Times on the film are counted in frames at the model's rate; spans are half-open.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored file: its location and the digest of its bytes. It never changes."""

    uri: str
    sha256: str
    bytes: int
    kind: str  # type of the content, such as "picture/png", "footage/mp4", "sound/flac", "tensors/safetensors"


@dataclass(frozen=True, slots=True)
class Span:
    """Frames `start` to `stop`, the latter excluded."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"wanted a span with 0 <= start <= stop, got [{self.start}, {self.stop})")

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
    """When the second of two voices starts."""

    TOGETHER = "together"  # both start at the beginning
    IN_TURN = "in_turn"  # the second starts when the first has ended


class Length(StrEnum):
    """What decides the length of the film."""

    AUDIO = "audio"  # as long as the speech; shorter footage is extended as segment.extend says
    VIDEO = "video"  # as long as the footage; silence after the speech
    SHORTEST = "shortest"  # whichever ends first ends the film


@dataclass(frozen=True, slots=True)
class Speaker:
    """A person who is to speak: the new speech, and where in the picture the face is (needed only if there are two)."""

    speech: str  # URI of a sound or video file
    box: Box | None


@dataclass(frozen=True, slots=True)
class Material:
    """The user's files of a job. Only ingest opens them."""

    picture: str  # URI of a photograph or of footage
    speakers: tuple[Speaker, ...]  # one or two; none only if the engine needs no speech
    turns: Turns


@dataclass(frozen=True, slots=True)
class Prompt:
    """Input of the text encoder."""

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


# -- results of the stages --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Voice:
    """A speaker's sound, decoded once and stored losslessly at its own rate and channels: the sound track of the film."""

    sound: Artifact  # "sound/flac"
    sample_rate: int
    n_samples: int  # per channel
    start_sample: int  # position of its first sample on the film's sound track, at `sample_rate`
    box: Box | None  # in pixels of `Source.picture`

    @property
    def stop_seconds(self) -> float:
        """The time on the film at which this voice ends, in seconds."""
        return (self.start_sample + self.n_samples) / self.sample_rate


@dataclass(frozen=True, slots=True)
class Source:
    """A job's material in known formats: upright, constant frame rate, decodable. Made by ingest, the only stage that opens user media."""

    picture: Artifact  # "picture/png" or "footage/mp4"
    moving: bool
    width: int
    height: int
    fps: float  # of `picture` if it moves, and of the film
    n_frames: int  # 1 for a photograph
    voices: tuple[Voice, ...]

    @property
    def speech_seconds(self) -> float:
        """The time on the film at which the last voice ends, in seconds; 0 without voices."""
        return max((voice.stop_seconds for voice in self.voices), default=0.0)


@dataclass(frozen=True, slots=True)
class Window:
    """The frames that one pass of the denoiser makes.

    The model always makes `span.frames + pad_frames` frames (a number of the form 4n+1). The first `overlap_frames` of them repeat the end of
    the window before and are dropped. The last `pad_frames` are after the end of the segment and are dropped too.
    """

    span: Span  # on the film
    overlap_frames: int
    pad_frames: int
    reference_frame: int  # the frame of `Source.picture` that conditions this window

    @property
    def fresh(self) -> Span:
        """The frames that this window adds to the film."""
        return Span(self.span.start + self.overlap_frames, self.span.stop)


@dataclass(frozen=True, slots=True)
class Segment:
    """A shot, or the whole film of a photograph: the unit that is scheduled, retried and rerun. Each window depends on the one before; segments are
    independent."""

    index: int
    span: Span  # on the film
    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class Speech:
    """Speech features: one row per film frame and speaker.

    The tensors are `speaker_{i}` [n_frames, layers, channels] for each voice and `silence` [layers, channels], the row of every later frame.
    """

    features: Artifact  # "tensors/safetensors"
    n_frames: int
    lufs: tuple[float | None, ...]  # integrated loudness of each voice as given; None if it is silent or too short to measure


@dataclass(frozen=True, slots=True)
class Seed:
    """Seed of a job's random numbers; each window draws its own from (value, job, segment, window)."""

    value: int
    job: str


@dataclass(frozen=True, slots=True)
class Conditions:
    """All conditioning of a segment except the motion frames, which come from the window before."""

    tensors: Artifact  # "tensors/safetensors"; written and read by the engine
    height: int  # of the frames to be made, pixels
    width: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The fresh frames of one window, encoded losslessly."""

    window: int  # of the segment, from 0
    picture: Artifact  # "chunk/mkv"
    frames: int


@dataclass(frozen=True, slots=True)
class WindowCheckpoint:
    """A finished window, and what the next one starts from: enough to continue on another machine with the same bits."""

    chunk: Chunk
    motion: Artifact | None  # "motion/safetensors": `frames` [1, 3, motion_frames, H, W], float32; None for a segment's last window


@dataclass(frozen=True, slots=True)
class Clip:
    """A segment's frames, window by window."""

    segment: int
    span: Span
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class Film:
    """Picture and sound in one file; picture alone if no voice was given."""

    file: Artifact  # "film/mp4"
    frames: int
    fps: float
    drift_ms: float  # end of the speech minus end of the picture; negative if silence follows the speech; 0 without voices


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a film was made, for its sidecar: enough to make it again."""

    run: str
    config: dict[str, Any]
    weights: str  # digest of the model's files
    versions: dict[str, str]
    seconds: dict[str, float]  # computed per stage, without waiting and reused results


@dataclass(frozen=True, slots=True)
class Receipt:
    """The delivered film."""

    uri: str
    sha256: str
    bytes: int
    sidecar: str
