"""Fixtures of whole films: the original's streaming loop, repeated by the code of the stages with the same noise."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from infinitedub.pipeline.verify.comparison import Check, Skipped, compare, compare_exactly
from infinitedub.pipeline.verify.fixture import Fixture
from infinitedub.pipeline.verify.networks import build_codec, build_image_encoder, build_transformer
from infinitedub.stages.engines.framing import choose_bucket
from infinitedub.stages.engines.infinitetalk.preparation import InfiniteTalkPreparation
from infinitedub.stages.engines.infinitetalk.settings import InfiniteTalkPreparationSettings
from infinitedub.stages.engines.infinitetalk.window import InfiniteTalk, first_frame_mask
from infinitedub.stages.engines.infinitetalk.window_inputs import WindowInputs
from infinitedub.stages.generate.streaming import SegmentProgress, StreamOptions, WindowFrames, generate_segment
from infinitedub.stages.media.video_io import write_lossless
from infinitedub.stages.model.shards import SingleDevice
from infinitedub.stages.records import Artifact, Box, Prompt, Segment, Source, Span, Voice, Window
from infinitedub.stages.sampling.guidance import Apg, Cfg, Guidance
from infinitedub.stages.sampling.samplers import SamplerSettings
from infinitedub.stages.sampling.step_cache import Cache, NoCache, TeaCache
from infinitedub.stages.segment.plan import plan_windows, source_frame

EARLY_LATENTS, LATE_LATENTS = 5e-4, 3e-3
"""For windows 0 and 1, and for later ones: errors grow from window to window, since each starts from frames of the one before."""
VIDEO_MAX, VIDEO_MEAN = 2e-2, 1e-4
PARTS = 1e-4
EARLY_WINDOWS = 2
WARMUP_STEPS = 5
"""Of TeaCache in the release's pipeline; it has no final steps."""

RELEASE_PASSES = 3
"""TeaCache in the release counts forwards as if each step had this many passes."""

Coefficients = Mapping[str, tuple[float, ...]]
"""TeaCache's polynomial for each size class, by upstream's names."""


@dataclass
class EngineTrace:
    """Values recorded while the engine runs."""

    inputs: list[WindowInputs] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)  # of each window
    predictions: list[Tensor] = field(default_factory=list)  # of each forward
    computed: list[int] = field(default_factory=list)  # for each forward 1 if the blocks were computed, else 0


class TracedEngine(InfiniteTalk):
    """The engine, recording its intermediate values."""

    def __init__(self, *parts: Any, trace: EngineTrace, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        self._trace = trace

    def denoise(self, inputs: WindowInputs, known: Tensor, noise: Tensor) -> Tensor:
        latents = super().denoise(inputs, known, noise)
        self._trace.inputs.append(inputs)
        self._trace.latents.append(latents)
        return latents


class CollectedFrames:
    """Keeps all fresh frames in memory. Implements `WindowStore`."""

    def __init__(self) -> None:
        self.fresh: list[Tensor] = []  # of each window [3, F, H, W]

    def resume(self, progress: SegmentProgress) -> SegmentProgress:
        return progress

    def save(self, progress: SegmentProgress, made: WindowFrames | None) -> SegmentProgress:
        if made is None:
            raise RuntimeError("one process makes all frames, got none")
        self.fresh.append(made.fresh[0])
        return SegmentProgress(progress.window + 1, made.motion_frames)


def check_loop(fixture: Fixture, coefficients: Coefficients) -> Iterator[Check | Skipped]:
    """The film and its intermediate values."""
    about, name = fixture.about, fixture.name
    if about["extra_args"]["use_teacache"] and len(guidance_of(about).passes) != RELEASE_PASSES:
        yield Skipped(name, "with two passes per step the release's TeaCache confuses them, which is not reproduced here")
        return
    segment, frames = plan(about)
    trace = EngineTrace()
    with TemporaryDirectory() as folder:
        video, masks = film(fixture, segment, coefficients, trace, Path(folder))

    if masks is not None:
        yield compare_exactly(name, "masks", masks.float(), fixture["ref_target_masks"])
    for number, (inputs, latents) in enumerate(zip(trace.inputs, trace.latents, strict=True)):
        if f"win{number}.x0" not in fixture:
            yield Skipped(name, f"window {number} is not in the fixture")
            continue
        condition = torch.cat([first_frame_mask(inputs.reference), inputs.reference], dim=1)
        yield compare(name, f"window {number} reference", condition, fixture[f"win{number}.y"], PARTS)
        yield compare(name, f"window {number} image", inputs.image, fixture[f"win{number}.clip_context"], PARTS)
        yield compare_exactly(name, f"window {number} speech", inputs.audio, fixture[f"win{number}.audio"])
        yield compare(name, f"window {number} x0", latents[0], fixture[f"win{number}.x0"], EARLY_LATENTS if number < EARLY_WINDOWS else LATE_LATENTS)
    expected = [fixture[key] for key in (f"win0.call{call}.out" for call in range(len(trace.predictions))) if key in fixture]
    if expected:
        ours = torch.cat(trace.predictions[: len(expected)])
        yield compare(name, "window 0 forwards", ours, torch.stack(expected), EARLY_LATENTS)
    yield compare_exactly(name, "computed forwards", trace.computed, [call[-1] for call in about["dit_calls"]])
    yield compare(name, "video", video[:, :frames], fixture["out.video"], VIDEO_MAX, VIDEO_MEAN)


def plan(about: Mapping[str, Any]) -> tuple[Segment, int]:
    """The windows that the original makes of a film, and the number of frames that it keeps.

    It plans by the first person's speech alone. If the last of several windows was padded, it cuts the film to the last person's speech.
    """
    call, lengths = about["call"], about["audio_lengths"]
    window_frames, most = call["frame_num"], call["max_frames_num"]
    n_source = about["n_source_frames"] if about["is_video"] else 1
    planned = plan_windows(Span(0, min(most, lengths[0])), window_frames, call["motion_frame"])
    windows = tuple(
        Window(Span(span.start, span.start + window_frames), overlap, 0, source_frame(span.start, n_source, "hold")) for span, overlap, _ in planned
    )
    made = windows[-1].span.stop
    padded = most > window_frames and any(made >= length for length in lengths)
    frames = min(made, most, lengths[-1]) if padded else min(made, most)
    return Segment(0, Span(0, made), windows), frames


def film(fixture: Fixture, segment: Segment, coefficients: Coefficients, trace: EngineTrace, folder: Path) -> tuple[Tensor, Tensor | None]:
    """All fresh frames [3, F, H, W] in [-1, 1], and the masks."""
    about, call = fixture.about, fixture.about["call"]
    prompt = Prompt("positive", "negative")
    states = {prompt.text: fixture["in.context"], prompt.negative: fixture["in.context_null"]}
    codec = build_codec(fixture.weights("vae."))
    image_encoder = build_image_encoder(fixture.weights("clip."), about["clip"]["heads"])
    preparation = InfiniteTalkPreparation(preparation_settings(about), codec, image_encoder, states.__getitem__, "cpu", remembered_prompts=2)
    conditions, speech = folder / "conditions.safetensors", folder / "speech.safetensors"
    picture = save_source(fixture, folder)
    buckets: dict[float, tuple[int, int]] = {float(ratio): tuple(entry[0]) for ratio, entry in about["bucket_table"].items()}
    height, width = about["source_hw"]
    size = choose_bucket(height, width, buckets)
    preparation.prepare(picture, source_of(about), segment, prompt, size, conditions)
    save_speech(fixture, speech)

    transformer = build_transformer(fixture.weights("dit."), about)
    transformer.register_forward_pre_hook(lambda *_: trace.computed.append(0))
    transformer.blocks[0].register_forward_hook(lambda *_: trace.computed.__setitem__(-1, 1))
    transformer.register_forward_hook(lambda _, __, answer: trace.predictions.append(answer))
    engine = TracedEngine(
        transformer,
        codec,
        sampler=SamplerSettings(name="euler", steps=call["sampling_steps"], shift=call["shift"]),
        guidance=guidance_of(about),
        cache=cache_of(about, coefficients),
        shards=SingleDevice(),
        device="cpu",
        trace=trace,
    )
    noise = {window: fixture[key][None] for key, kind, window, _ in about["rng_order"] if kind == "noise"}
    collected = CollectedFrames()
    parts = generate_segment(
        engine,
        segment,
        engine.open_segment(segment, conditions, speech),
        collected,
        StreamOptions(call["color_correction_strength"], seam_frames=0, motion_frames=call["motion_frame"]),
        noise=lambda window, _: noise[window],
    )
    for _ in parts:
        pass
    return torch.cat(collected.fresh, dim=1), load_file(conditions).get("masks")


def preparation_settings(about: Mapping[str, Any]) -> InfiniteTalkPreparationSettings:
    return InfiniteTalkPreparationSettings(
        engine="infinitetalk",
        weights="bundled:none",  # the encoders are passed in
        window_frames=about["call"]["frame_num"],
        dtype="fp32",
        compat="upstream",
    )


def source_of(about: Mapping[str, Any]) -> Source:
    """The record of the fixture's picture and speakers. A box has its rows first, as the original reads it."""
    height, width = about["source_hw"]
    nothing = Artifact("", "", 0, "")
    boxes: Sequence[Sequence[int] | None] = [*about["bbox"].values()] if about["bbox"] else [None] * len(about["audio_lengths"])
    voices = tuple(Voice(nothing, 1, 0, 0, None if box is None else Box(*(int(number) for number in box))) for box in boxes)
    return Source(nothing, about["is_video"], width, height, 25.0, about["n_source_frames"], voices)


def save_source(fixture: Fixture, folder: Path) -> Path:
    """Writes the fixture's frames in the format of ingest."""
    frames = fixture["in.cond_frames_uint8"].numpy()
    if fixture.about["is_video"]:
        path = folder / "source.mkv"
        write_lossless(path, frames, 25.0)
    else:
        path = folder / "source.png"
        Image.fromarray(frames[0]).save(path)
    return path


def save_speech(fixture: Fixture, path: Path) -> None:
    """Writes the fixture's features in the format of listen."""
    persons = len(fixture.about["audio_lengths"])
    speakers = {f"speaker_{number}": fixture[f"in.audio_emb_person{number + 1}"] for number in range(persons)}
    save_file({**speakers, "silence": torch.zeros_like(speakers["speaker_0"][0])}, path)


def guidance_of(about: Mapping[str, Any]) -> Guidance:
    scales = {"text_scale": about["call"]["text_guide_scale"], "audio_scale": about["call"]["audio_guide_scale"]}
    extra = about["extra_args"]
    if extra["use_apg"]:
        return Apg(name="apg", **scales, momentum=extra["apg_momentum"], norm_threshold=max(0, extra["apg_norm_threshold"]))
    return Cfg(name="cfg", **scales)


def cache_of(about: Mapping[str, Any], coefficients: Coefficients) -> Cache:
    extra = about["extra_args"]
    if not extra["use_teacache"]:
        return NoCache(name="none")
    return TeaCache(
        name="teacache",
        threshold=extra["teacache_thresh"],
        coefficients=coefficients[about["call"]["size_buckget"]],
        warmup_steps=WARMUP_STEPS,
        final_steps=0,
    )
