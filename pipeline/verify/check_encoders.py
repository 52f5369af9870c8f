"""Fixtures of the networks around the denoiser: speech, text, image, video."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from infinitedub.pipeline.verify.comparison import Check, compare, compare_exactly
from infinitedub.pipeline.verify.fixture import Fixture
from infinitedub.pipeline.verify.networks import build_codec, build_image_encoder, build_speech_encoder, build_text_model
from infinitedub.stages.engines.infinitetalk.speech_windows import feature_rows
from infinitedub.stages.model.audio_conditioning import AudioProjector, window_indices
from infinitedub.stages.model.image_encoder import preprocess
from infinitedub.stages.model.latent_codec import LatentCodec
from infinitedub.stages.model.text_encoder import TextEncoder
from infinitedub.stages.model.weights.keymap import IDENTITY, translator
from infinitedub.stages.model.weights.load import load_weights, map_sources

TOLERANCE = 1e-5
"""Relative to the largest value, or absolute if that is below 1."""


def check_audio_projector(fixture: Fixture) -> Iterator[Check]:
    """The projector in each of its sizes for one person and two; the feature rows of each frame; the rows after the end of the speech."""
    sizes = {name: about for name, about in fixture.about.items() if isinstance(about, dict) and "context_tokens" in about}
    for name, about in sizes.items():
        projector = AudioProjector(
            window=about["seq_len"],
            vae_scale=about["seq_len_vf"] - about["seq_len"] + 1,
            blocks=about["blocks"],
            channels=about["channels"],
            intermediate_dim=about["intermediate_dim"],
            context_tokens=about["context_tokens"],
            output_dim=about["output_dim"],
            norm_output=about["norm_output_audio"],
        )
        load_weights(projector, map_sources(fixture.weights(f"{name}.w."), translator(IDENTITY)), dtype=torch.float32, device="cpu")
        for case in cases(fixture, f"{name}.p", ".in.audio"):
            audio = fixture[f"{case}.in.audio"]
            first, later = projector.gather_rows(audio)
            yield compare_exactly(fixture.name, f"{case} first rows", first, fixture[f"{case}.in.first"])
            yield compare_exactly(fixture.name, f"{case} later rows", later, fixture[f"{case}.in.latter"])
            yield near(fixture.name, f"{case} tokens", projector(audio), fixture[f"{case}.out"])
    for about in fixture.about.get("center_indices", ()):
        expected = fixture[f"center_indices.{about['i']}"]
        ours = window_indices(about["start"], about["frame_num"], about["audio_len"], expected.shape[1])
        yield compare_exactly(fixture.name, f"indices {about['i']}", ours, expected)
    if "tail" in fixture.about:
        speech, extended = fixture["tail.in"], fixture["tail.out"]
        rows = feature_rows(0, len(extended), len(speech), 1, "mirror")[:, 0]
        yield compare_exactly(fixture.name, "mirrored tail", speech[rows], extended)


def check_image_encoder(fixture: Fixture) -> Iterator[Check]:
    encoder = build_image_encoder(fixture.weights("w."), fixture.about["heads"])
    for case in cases(fixture, "", ".in.image"):
        frame = fixture[f"{case}.in.image"][:, :, 0]
        pixels = fixture[f"{case}.pixel_values"]
        yield near(fixture.name, f"{case} pixels", preprocess(frame, pixels.shape[-1]), pixels)
        yield near(fixture.name, f"{case} tokens", encoder(frame), fixture[f"{case}.out"])


def check_codec(fixture: Fixture) -> Iterator[Check]:
    """Encoding and decoding. Ours refuses trailing frames, which upstream drops silently: they are cut off here."""
    codec = build_codec(fixture.weights("w."))
    for name in ("latents_mean", "latents_std"):
        yield near(fixture.name, name, getattr(codec, name).flatten(), fixture[name])
    for case in cases(fixture, "", ".in.video"):
        video = fixture[f"{case}.in.video"]
        whole = (video.shape[2] - 1) // LatentCodec.temporal_factor * LatentCodec.temporal_factor + 1
        latents = codec.encode(video[:, :, :whole])[0]
        yield near(fixture.name, f"{case} latents", latents, fixture[f"{case}.out.mu_normalised"])
        yield near(fixture.name, f"{case} frames", codec.decode(fixture[f"{case}.in.z"][None])[0], fixture[f"{case}.out.decoded"])


def check_text_encoder(fixture: Fixture) -> Iterator[Check]:
    """States of prompts, given as tokens."""
    model = build_text_model(fixture.weights("w."))
    for number, (ids, mask) in enumerate(zip(fixture["in.ids"], fixture["in.mask"], strict=True)):
        encoder = TextEncoder(model, tokens(ids[mask.bool()]))
        yield near(fixture.name, f"prompt {number}", encoder(""), fixture[f"out.ctx{number}"])


def tokens(ids: Tensor) -> Any:
    """A tokenizer that returns these `ids` for every prompt."""
    return lambda *_, **__: SimpleNamespace(input_ids=ids[None])


def check_speech_encoder(fixture: Fixture) -> Iterator[Check]:
    encoder = build_speech_encoder(fixture.weights("w."), fixture.about)
    for case in cases(fixture, "", ".in.speech"):
        samples = fixture[f"{case}.in.speech"].numpy()
        mean, std = encoder.mean_and_deviation(samples)
        yield near(fixture.name, f"{case} samples", torch.from_numpy((samples - mean) / std), fixture[f"{case}.input_values"])
        yield near(fixture.name, f"{case} features", encoder(samples), fixture[f"{case}.out.audio_emb"])


def near(fixture: str, quantity: str, ours: Tensor, expected: Tensor) -> Check:
    return compare(fixture, quantity, ours, expected, TOLERANCE * max(1.0, expected.abs().max().item()))


def cases(fixture: Fixture, start: str, end: str) -> list[str]:
    """The names of a fixture's cases, from its tensors called `start`...`end`."""
    return sorted(name.removesuffix(end) for name in fixture.tensors if name.startswith(start) and name.endswith(end))
