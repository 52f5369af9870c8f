"""The wav2vec2 speech encoder: one row of features per film frame.

The convolutions of wav2vec2 give a feature every 320 samples (50 per second). They are interpolated to the film's 25 per second before they enter
the transformer, and the outputs of all transformer layers are kept. After MeiGen-AI/InfiniteTalk: src/audio_analysis/wav2vec2.py.
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
RECEPTIVE_FIELD_SAMPLES = 400  # samples that wav2vec2's convolutions need for their first feature
SAMPLE_BLOCK = 1 << 18  # samples read at a time when a statistic over all samples is computed
FEATURE_BLOCK = 1 << 16  # the same for features of the first convolution: with 512 channels 256 MiB in float64


class MonoSamples(Protocol):
    """Mono float32 sound that is read in slices: an array, or a file on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class FeatureChunk:
    """Feature rows that are computed in one pass: the `output` rows, and the `input` rows, which add context on both sides."""

    output: Span
    input: Span


def plan_chunks(frames: int, chunk_frames: int, context_frames: int) -> tuple[FeatureChunk, ...]:
    """`frames` feature rows split into chunks of `chunk_frames`, each with up to `context_frames` of context on both sides."""
    spans = [Span(start, min(start + chunk_frames, frames)) for start in range(0, frames, chunk_frames)]
    return tuple(FeatureChunk(span, Span(max(span.start - context_frames, 0), min(span.stop + context_frames, frames))) for span in spans)


class SpeechEncoder:
    """Encodes sound to speech features."""

    def __init__(self, model: Wav2Vec2Model, normalise: bool) -> None:
        self.model = model.eval()
        self.normalise = normalise

    def __call__(self, samples: MonoSamples, frames: int | None = None) -> Tensor:
        """Features [frames, layers, channels] of mono float32 `samples` at 16 kHz; by default one row per complete 1/25 s.

        Raises BadInput if the sound is too short for one row.
        """
        frames = len(samples) // FRAME_SAMPLES if frames is None else frames
        if frames < 1 or len(samples) < RECEPTIVE_FIELD_SAMPLES:
            raise BadInput(f"speech of {len(samples)} samples at 16 kHz is too short; it needs at least {FRAME_SAMPLES} samples (1/25 s)")
        return self.encode(self.normalised_wave(samples[: len(samples)], *self.mean_and_deviation(samples)), self.row_positions(len(samples), frames))

    def encode_in_chunks(self, samples: MonoSamples, chunk_seconds: float, context_seconds: float) -> Iterator[Tensor]:
        """The features chunk by chunk [frames, layers, channels], so that memory does not grow with the length of the sound.

        Sound that fits into one chunk gives exactly the result of `__call__`. Longer sound is encoded with `context_seconds` on both sides of each
        chunk, which are then removed; the only difference is that the transformer does not attend to sound beyond this context.
        """
        chunk_frames, context_frames = round(chunk_seconds * FRAME_RATE), round(context_seconds * FRAME_RATE)
        if chunk_frames < 1 or context_frames < 0:
            raise ConfigError(f"got speech chunks of {chunk_seconds} s with {context_seconds} s of context; wanted at least 1/25 s and 0 s")
        frames = len(samples) // FRAME_SAMPLES
        if frames <= chunk_frames:
            yield self(samples)
            return
        scale = self.mean_and_deviation(samples)
        moments = self.first_layer_moments(samples, scale)
        positions = self.row_positions(len(samples), frames)
        for chunk in plan_chunks(frames, chunk_frames, context_frames):
            stop = len(samples) if chunk.input.stop == frames else chunk.input.stop * FRAME_SAMPLES
            wave = self.normalised_wave(samples[chunk.input.start * FRAME_SAMPLES : stop], *scale)
            with fixed_norm_moments(self.model.feature_extractor.conv_layers[0].layer_norm, moments):
                chunk_positions = positions[chunk.input.start : chunk.input.stop] - chunk.input.start * self.features_per_frame
                rows = self.encode(wave, chunk_positions)
            yield rows[chunk.output.start - chunk.input.start :][: chunk.output.frames]

    def mean_and_deviation(self, samples: MonoSamples) -> tuple[float, float]:
        """Mean and standard deviation that normalise `samples`, as in transformers' Wav2Vec2FeatureExtractor; 0 and 1 without normalisation."""
        if not self.normalise:
            return 0.0, 1.0
        starts = range(0, len(samples), SAMPLE_BLOCK)
        mean = sum(float(samples[start : start + SAMPLE_BLOCK].sum(dtype=np.float64)) for start in starts) / len(samples)
        squares = sum(float(np.square(samples[start : start + SAMPLE_BLOCK] - mean, dtype=np.float64).sum()) for start in starts)
        return mean, float(np.sqrt(squares / len(samples) + 1e-7))

    def normalised_wave(self, samples: np.ndarray, mean: float, deviation: float) -> Tensor:
        """`samples` with `mean` subtracted and divided by `deviation` [1, n], on the encoder's device."""
        return torch.from_numpy(((samples - mean) / deviation).astype(np.float32))[None].to(self.model.device, self.model.dtype)

    @property
    def features_per_frame(self) -> float:
        return FRAME_SAMPLES / math.prod(self.model.config.conv_stride)

    def row_positions(self, samples: int, frames: int) -> Tensor:
        """Fractional positions of `frames` rows among the convolutions' features [frames]: even steps from first to last, as in the release."""
        features = samples
        for kernel, stride in zip(self.model.config.conv_kernel, self.model.config.conv_stride, strict=True):
            features = (features - kernel) // stride + 1
        return torch.linspace(0, features - 1, frames, dtype=torch.float64)

    @torch.no_grad()
    def encode(self, wave: Tensor, positions: Tensor) -> Tensor:
        """Features [rows, layers, channels] of `wave` [1, n], interpolated at `positions` [rows] of the convolutions' features."""
        features = interpolate_features(self.model.feature_extractor(wave), positions.to(self.model.device))
        hidden, _ = self.model.feature_projection(features.transpose(1, 2))
        with collect_outputs(self.model.encoder.layers) as layers:
            self.model.encoder(hidden)
        return torch.stack(layers, dim=2)[0]

    @torch.no_grad()
    def first_layer_moments(self, samples: MonoSamples, scale: tuple[float, float]) -> tuple[Tensor, Tensor] | None:
        """Mean and variance over all `samples` of each channel of the first convolution [channels, 1]; None if it has no norm over time."""
        if self.model.config.feat_extract_norm != "group":
            return None
        convolution = self.model.feature_extractor.conv_layers[0].conv
        (kernel,), (stride,) = convolution.kernel_size, convolution.stride
        features = (len(samples) - kernel) // stride + 1
        total = squares = torch.zeros(1, device=self.model.device, dtype=torch.float64)
        for start in range(0, features, FEATURE_BLOCK):
            stop = min(start + FEATURE_BLOCK, features)
            out = convolution(self.normalised_wave(samples[start * stride : (stop - 1) * stride + kernel], *scale)).double()
            total, squares = total + out.sum(dim=1), squares + out.square().sum(dim=1)
        mean = total / features
        variance = squares / features - mean.square()
        return mean[:, None].to(self.model.dtype), variance[:, None].to(self.model.dtype)


def interpolate_features(features: Tensor, positions: Tensor) -> Tensor:
    """`features` [1, C, n] at fractional `positions` [rows], interpolated linearly and clamped at the ends: [1, C, rows]."""
    last = features.shape[-1] - 1
    positions = positions.clamp(0, last)
    left = positions.long()
    return torch.lerp(features[..., left], features[..., (left + 1).clamp(max=last)], (positions - left).to(features.dtype))


@contextmanager
def fixed_norm_moments(norm: nn.GroupNorm, moments: tuple[Tensor, Tensor] | None) -> Iterator[None]:
    """Within this context the norm of the first convolution uses the given moments of the whole sound.

    This group norm has one group per channel and takes mean and variance over time. Computed per chunk, it would amplify a silent chunk to the
    level of speech.
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
def collect_outputs(layers: nn.ModuleList) -> Iterator[list[Tensor]]:
    """Collects the output of each layer: transformers 5 returns no hidden states if the encoder is called on its own."""
    outputs: list[Tensor] = []

    def collect(_: nn.Module, __: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_hook(collect) for layer in layers]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
