"""Fixtures of whole films: the original's streaming loop, run again by the stages' own code with its noise."""

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
from infinitedub.stages.condition.preparer import Preparer
from infinitedub.stages.condition.settings import ConditionSettings
from infinitedub.stages.generate.engine import WindowInputs
from infinitedub.stages.generate.infinitetalk import InfiniteTalk, first_frame_mask
from infinitedub.stages.generate.sampling.guidance import Apg, Cfg, Guidance
from infinitedub.stages.generate.sampling.samplers import SamplerSettings
from infinitedub.stages.generate.sampling.step_cache import Cache, NoCache, TeaCache
from infinitedub.stages.generate.streaming import dub
from infinitedub.stages.generate.window_inputs import SegmentInputs
from infinitedub.stages.media.video import write_lossless
from infinitedub.stages.model.shards import SingleDevice
from infinitedub.stages.records import Artifact, Box, Prompt, Segment, Source, Span, Voice, Window
from infinitedub.stages.segment.plan import plan_windows, source_frame

EARLY_LATENTS, LATE_LATENTS = 5e-4, 3e-3
"""Of windows 0 and 1, and of later ones: differences grow from window to window, as each starts from frames of the one before."""
VIDEO_MAX, VIDEO_MEAN = 2e-2, 1e-4
PARTS = 1e-4
EARLY_WINDOWS = 2
WARMUP_STEPS = 5
"""Of TeaCache in the release's pipeline; none are kept at the end."""

RELEASE_PASSES = 3
"""TeaCache in the release counts forwards as if each step had this many."""

Coefficients = Mapping[str, tuple[float, ...]]
"""TeaCache's polynomial for each name of a size class, as upstream calls them."""


@dataclass
class Seen:
    """What the engine is watched for."""

    cues: list[WindowInputs] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)  # of each window
    answers: list[Tensor] = field(default_factory=list)  # of each forward
    computed: list[int] = field(default_factory=list)  # 1 for each forward whose blocks were asked


class Watched(InfiniteTalk):
    """The engine, with what passes between its parts written down."""

    def __init__(self, *parts: Any, seen: Seen, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        self._seen = seen

    def denoise(self, cue: WindowInputs, known: Tensor, noise: Tensor) -> Tensor:
        latents = super().denoise(cue, known, noise)
        self._seen.cues.append(cue)
        self._seen.latents.append(latents)
        return latents


def check_loop(fixture: Fixture, coefficients: Coefficients) -> Iterator[Check | Skipped]:
    """The film, and what it is made of on the way."""
    about, name = fixture.about, fixture.name
    if about["extra_args"]["use_teacache"] and len(guidance_of(about).passes) != RELEASE_PASSES:
        yield Skipped(name, "with two passes a step the release's TeaCache takes one for the other, which is not repeated here")
        return
    segment, frames = plan(about)
    seen = Seen()
    with TemporaryDirectory() as folder:
        video, masks = film(fixture, segment, coefficients, seen, Path(folder))

    if masks is not None:
        yield compare_exactly(name, "masks", masks.float(), fixture["ref_target_masks"])
    for number, (cue, latents) in enumerate(zip(seen.cues, seen.latents, strict=True)):
        if f"win{number}.x0" not in fixture:
            yield Skipped(name, f"window {number} is not in the fixture")
            continue
        told = torch.cat([first_frame_mask(cue.reference), cue.reference], dim=1)
        yield compare(name, f"window {number} reference", told, fixture[f"win{number}.y"], PARTS)
        yield compare(name, f"window {number} image", cue.image, fixture[f"win{number}.clip_context"], PARTS)
        yield compare_exactly(name, f"window {number} speech", cue.audio, fixture[f"win{number}.audio"])
        yield compare(name, f"window {number} x0", latents[0], fixture[f"win{number}.x0"], EARLY_LATENTS if number < EARLY_WINDOWS else LATE_LATENTS)
    theirs = [fixture[key] for key in (f"win0.call{call}.out" for call in range(len(seen.answers))) if key in fixture]
    if theirs:
        ours = torch.cat(seen.answers[: len(theirs)])
        yield compare(name, "window 0 forwards", ours, torch.stack(theirs), EARLY_LATENTS)
    yield compare_exactly(name, "computed forwards", seen.computed, [call[-1] for call in about["dit_calls"]])
    yield compare(name, "video", video[:, :frames], fixture["out.video"], VIDEO_MAX, VIDEO_MEAN)


def plan(about: Mapping[str, Any]) -> tuple[Segment, int]:
    """The windows the original makes of a film, and how many of their frames it keeps.

    It goes by the first person's speech alone, and where a window of more than one was filled up, it cuts the film to the last person's.
    """
    call, lengths = about["call"], about["audio_lengths"]
    window_frames, most = call["frame_num"], call["max_frames_num"]
    n_source = about["n_source_frames"] if about["is_video"] else 1
    planned = plan_windows(Span(0, min(most, lengths[0])), window_frames, call["motion_frame"])
    windows = tuple(
        Window(Span(span.start, span.start + window_frames), overlap, 0, source_frame(span.start, n_source, "hold")) for span, overlap, _ in planned
    )
    made = windows[-1].span.stop
    filled_up = most > window_frames and any(made >= length for length in lengths)
    frames = min(made, most, lengths[-1]) if filled_up else min(made, most)
    return Segment(0, Span(0, made), windows), frames


def film(fixture: Fixture, segment: Segment, coefficients: Coefficients, seen: Seen, folder: Path) -> tuple[Tensor, Tensor | None]:
    """All fresh frames [3, F, H, W] in [-1, 1], and the masks that were used."""
    about, call = fixture.about, fixture.about["call"]
    prompt = Prompt("positive", "negative")
    states = {prompt.text: fixture["in.context"], prompt.negative: fixture["in.context_null"]}
    codec = build_codec(fixture.weights("vae."))
    image_encoder = build_image_encoder(fixture.weights("clip."), about["clip"]["heads"])
    preparer = Preparer(condition_settings(about), codec, image_encoder, states.__getitem__, "cpu")
    conditions, speech = folder / "conditions.safetensors", folder / "speech.safetensors"
    picture = save_source(fixture, folder)
    preparer.prepare(picture, source_of(about), segment, prompt, conditions)
    save_speech(fixture, speech)

    transformer = build_transformer(fixture.weights("dit."), about)
    transformer.register_forward_pre_hook(lambda *_: seen.computed.append(0))
    transformer.blocks[0].register_forward_hook(lambda *_: seen.computed.__setitem__(-1, 1))
    transformer.register_forward_hook(lambda _, __, answer: seen.answers.append(answer))
    engine = Watched(
        transformer,
        codec,
        sampler=SamplerSettings(name="euler", steps=call["sampling_steps"], shift=call["shift"]),
        guidance=guidance_of(about),
        cache=cache_of(about, coefficients),
        shards=SingleDevice(),
        seen=seen,
    )
    noise = {window: fixture[key][None] for key, kind, window, _ in about["rng_order"] if kind == "noise"}
    pieces = dub(
        engine,
        segment,
        SegmentInputs(segment, conditions, speech, "cpu", compat_upstream=True),
        lambda fresh, _: fresh[0],
        color_strength=call["color_correction_strength"],
        seam_frames=0,
        motion_frames=call["motion_frame"],
        noise=lambda window, _: noise[window],
    )
    video = torch.cat(list(pieces), dim=1)
    return video, load_file(conditions).get("masks")


def condition_settings(about: Mapping[str, Any]) -> ConditionSettings:
    buckets = {float(ratio): tuple(entry[0]) for ratio, entry in about["bucket_table"].items()}
    return ConditionSettings(
        weights="bundled:none",  # the encoders are handed in
        buckets=buckets,
        window_frames=about["call"]["frame_num"],
        dtype="fp32",
        device="cpu",
        compat="upstream",
        remembered_prompts=2,
    )


def source_of(about: Mapping[str, Any]) -> Source:
    """The record of the fixture's picture and speakers. A box is given as the original reads it: rows first."""
    height, width = about["source_hw"]
    nothing = Artifact("", "", 0, "")
    boxes: Sequence[Sequence[int] | None] = [*about["bbox"].values()] if about["bbox"] else [None] * len(about["audio_lengths"])
    voices = tuple(Voice(nothing, 1, 0, 0, None if box is None else Box(*(int(number) for number in box))) for box in boxes)
    return Source(nothing, about["is_video"], width, height, 25.0, about["n_source_frames"], voices)


def save_source(fixture: Fixture, folder: Path) -> Path:
    """The fixture's frames as a file of the kind that ingest makes."""
    frames = fixture["in.cond_frames_uint8"].numpy()
    if fixture.about["is_video"]:
        path = folder / "source.mkv"
        write_lossless(path, frames, 25.0)
    else:
        path = folder / "source.png"
        Image.fromarray(frames[0]).save(path)
    return path


def save_speech(fixture: Fixture, path: Path) -> None:
    """The fixture's features as a file of the kind that listen makes."""
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
