"""What is said: wav2vec2 features, one row per film frame.

The convolutions of wav2vec2 give a feature every 320 samples (50 a second); they are interpolated to the film's 25 a second before the
transformer sees them, and every transformer layer's output is kept. After MeiGen-AI/InfiniteTalk: src/audio_analysis/wav2vec2.py.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Wav2Vec2Model

from infinitedub.stages.errors import BadInput, ConfigError
from infinitedub.stages.records import Span

SAMPLE_RATE = 16_000
FRAME_RATE = 25
FRAME_SAMPLES = SAMPLE_RATE // FRAME_RATE
FIELD_SAMPLES = 400  # what wav2vec2's convolutions need for their first feature
BLOCK = 1 << 18  # samples that are looked at together where only a mean is wanted
FEATURE_BLOCK = 1 << 16  # as many features of the first convolution: with 512 channels 256 MiB as doubles


class Samples(Protocol):
    """Mono float32 sound that is read in slices: an array, or what lies on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Piece:
    """Feature rows to be made in one go: those that are `wanted`, and those that are `heard` with them for context."""

    wanted: Span
    heard: Span


def plan_pieces(frames: int, chunk_frames: int, context_frames: int) -> tuple[Piece, ...]:
    """`frames` feature rows cut into pieces of `chunk_frames`, each heard with up to `context_frames` on both sides."""
    spans = [Span(start, min(start + chunk_frames, frames)) for start in range(0, frames, chunk_frames)]
    return tuple(Piece(span, Span(max(span.start - context_frames, 0), min(span.stop + context_frames, frames))) for span in spans)


class SpeechEncoder:
    """Sound to speech features."""

    def __init__(self, model: Wav2Vec2Model, normalise: bool) -> None:
        self.model = model.eval()
        self.normalise = normalise

    def __call__(self, samples: Samples, frames: int | None = None) -> Tensor:
        """Features [frames, layers, channels] of mono float32 `samples` at 16 kHz; by default one row for each whole 1/25 s.

        Raises BadInput where the sound is too short for a single row.
        """
        frames = len(samples) // FRAME_SAMPLES if frames is None else frames
        if frames < 1 or len(samples) < FIELD_SAMPLES:
            raise BadInput(f"speech of {len(samples)} samples at 16 kHz is too short: {FRAME_SAMPLES} samples (1/25 s) are needed at least")
        return self.encode(self.wave(samples[: len(samples)], *self.level(samples)), self.row_positions(len(samples), frames))

    def in_chunks(self, samples: Samples, chunk_seconds: float, context_seconds: float) -> Iterator[Tensor]:
        """The features piece by piece [frames, layers, channels], so that hours of sound need no more memory than one piece.

        Sound that fits into one chunk gives exactly what the plain call gives. Beyond that each chunk is heard with `context_seconds` on both
        sides, which are then cut off, and all that differs is that the transformer does not attend to what is farther away.
        """
        chunk_frames, context_frames = round(chunk_seconds * FRAME_RATE), round(context_seconds * FRAME_RATE)
        if chunk_frames < 1 or context_frames < 0:
            raise ConfigError(f"speech in chunks of {chunk_seconds} s with {context_seconds} s of context: a chunk holds 1/25 s at least")
        frames = len(samples) // FRAME_SAMPLES
        if frames <= chunk_frames:
            yield self(samples)
            return
        level = self.level(samples)
        moments = self.moments(samples, level)
        positions = self.row_positions(len(samples), frames)
        for piece in plan_pieces(frames, chunk_frames, context_frames):
            stop = len(samples) if piece.heard.stop == frames else piece.heard.stop * FRAME_SAMPLES
            wave = self.wave(samples[piece.heard.start * FRAME_SAMPLES : stop], *level)
            with normed_by(self.model.feature_extractor.conv_layers[0].layer_norm, moments):
                heard_positions = positions[piece.heard.start : piece.heard.stop] - piece.heard.start * self.features_per_frame
                rows = self.encode(wave, heard_positions)
            yield rows[piece.wanted.start - piece.heard.start :][: piece.wanted.frames]

    def level(self, samples: Samples) -> tuple[float, float]:
        """Mean and deviation to be taken out of `samples`, as transformers' Wav2Vec2FeatureExtractor does; 0 and 1 where it does not."""
        if not self.normalise:
            return 0.0, 1.0
        starts = range(0, len(samples), BLOCK)
        mean = sum(float(samples[start : start + BLOCK].sum(dtype=np.float64)) for start in starts) / len(samples)
        squares = sum(float(np.square(samples[start : start + BLOCK] - mean, dtype=np.float64).sum()) for start in starts)
        return mean, float(np.sqrt(squares / len(samples) + 1e-7))

    def wave(self, samples: np.ndarray, mean: float, deviation: float) -> Tensor:
        """`samples` at the level the encoder wants [1, n], on its device."""
        return torch.from_numpy(((samples - mean) / deviation).astype(np.float32))[None].to(self.model.device, self.model.dtype)

    @property
    def features_per_frame(self) -> float:
        return FRAME_SAMPLES / math.prod(self.model.config.conv_stride)

    def row_positions(self, samples: int, frames: int) -> Tensor:
        """Where between the convolutions' features each of `frames` rows is read [frames]: evenly from the first to the last, as the release does."""
        features = samples
        for kernel, stride in zip(self.model.config.conv_kernel, self.model.config.conv_stride, strict=True):
            features = (features - kernel) // stride + 1
        return torch.linspace(0, features - 1, frames, dtype=torch.float64)

    @torch.no_grad()
    def encode(self, wave: Tensor, positions: Tensor) -> Tensor:
        """Features [rows, layers, channels] of `wave` [1, n], read at `positions` [rows] between the convolutions' features."""
        features = read_between(self.model.feature_extractor(wave), positions.to(self.model.device))
        hidden, _ = self.model.feature_projection(features.transpose(1, 2))
        with outputs_of(self.model.encoder.layers) as layers:
            self.model.encoder(hidden)
        return torch.stack(layers, dim=2)[0]

    @torch.no_grad()
    def moments(self, samples: Samples, level: tuple[float, float]) -> tuple[Tensor, Tensor] | None:
        """Mean and variance over all of `samples` of each channel of the first convolution [channels, 1]; None where it is not normed over time."""
        if self.model.config.feat_extract_norm != "group":
            return None
        convolution = self.model.feature_extractor.conv_layers[0].conv
        (kernel,), (stride,) = convolution.kernel_size, convolution.stride
        features = (len(samples) - kernel) // stride + 1
        total = squares = torch.zeros(1, device=self.model.device, dtype=torch.float64)
        for start in range(0, features, FEATURE_BLOCK):
            stop = min(start + FEATURE_BLOCK, features)
            out = convolution(self.wave(samples[start * stride : (stop - 1) * stride + kernel], *level)).double()
            total, squares = total + out.sum(dim=1), squares + out.square().sum(dim=1)
        mean = total / features
        variance = squares / features - mean.square()
        return mean[:, None].to(self.model.dtype), variance[:, None].to(self.model.dtype)


def read_between(features: Tensor, positions: Tensor) -> Tensor:
    """`features` [1, C, n] at fractional `positions` [rows], linearly between neighbours and held beyond the ends: [1, C, rows]."""
    last = features.shape[-1] - 1
    positions = positions.clamp(0, last)
    left = positions.long()
    return torch.lerp(features[..., left], features[..., (left + 1).clamp(max=last)], (positions - left).to(features.dtype))


@contextmanager
def normed_by(norm: nn.GroupNorm, moments: tuple[Tensor, Tensor] | None) -> Iterator[None]:
    """Within this context the first convolution is normed as if all of the sound were heard at once.

    Its group norm, with a group for each channel, takes mean and variance over time: left alone, it would blow a silent piece up to the loudness of
    speech.
    """
    if moments is None:
        yield
        return
    mean, variance = moments

    def replace(_: nn.Module, inputs: tuple[Tensor], __: Tensor) -> Tensor:
        return (inputs[0] - mean) * torch.rsqrt(variance + norm.eps) * norm.weight[:, None] + norm.bias[:, None]

    hook = norm.register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def outputs_of(layers: nn.ModuleList) -> Iterator[list[Tensor]]:
    """Collects what each layer gives: transformers 5 returns no hidden states where the encoder is called on its own."""
    outputs: list[Tensor] = []

    def collect(_: nn.Module, __: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_hook(collect) for layer in layers]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
