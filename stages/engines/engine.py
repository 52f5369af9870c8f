"""What a video model does here: prepare a segment ahead of its GPUs, and make windows of frames.

An engine is a room beside this file. registry.py lists its parts.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from torch import Tensor

from infinitedub.stages.records import Prompt, Segment, Source

Noise = Callable[[Sequence[int]], Tensor]
"""Standard normal numbers of a shape: the same on every rank, and the same again each time they are drawn."""

W = TypeVar("W")
W_co = TypeVar("W_co", covariant=True)


class Preparation(Protocol):
    """Makes the conditioning of a segment. Runs in the stage condition, on one process."""

    def prepare(self, picture: Path, source: Source, segment: Segment, prompt: Prompt, size: tuple[int, int], path: Path) -> None:
        """Writes the segment's conditions to the safetensors file `path`; the engine's `open_segment` reads them.

        `picture` is the source's file, `size` the height and width of the frames to be made. Raises BadInput if the source does not suit the engine.
        """


class SegmentInputs(Protocol[W_co]):
    """The inputs of a segment's windows, read window by window."""

    @property
    def color_reference(self) -> Tensor:
        """The picture [3, H, W] in [0, 1] whose colours the segment keeps."""

    def window(self, number: int) -> W_co:
        """The inputs of window `number`, on the engine's device."""


class Engine(Protocol[W]):
    """Makes windows of frames. Runs in the stage generate. In a gang, every rank makes the same calls."""

    def open_segment(self, segment: Segment, conditions: Path, speech: Path | None) -> SegmentInputs[W]:
        """The inputs of a segment, from the files of `prepare` and of listen; `speech` is None for an engine that needs none.

        Must not use collectives. Raises ConfigError if the ranks cannot share its windows, on all of them alike.
        """

    def window(self, inputs: W, motion_frames: Tensor | None, noise: Noise) -> Tensor | None:
        """The frames [1, 3, F, H, W] of a window in [-1, 1]; None on ranks other than 0.

        motion_frames [1, 3, overlap_frames, H, W]: the end of the window before. Only rank 0 has it, and only if there was such a window.
        Raises FloatingPointError if the numbers become NaN or infinity.
        """
