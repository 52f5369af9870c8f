"""GPU memory that the stages of an engine need."""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True, slots=True)
class DeviceBytes:
    """GPU memory at the peak of each stage, in bytes."""

    condition: int
    generate: int  # of each rank
