"""What makes a run with InfiniteTalk impossible, found before anything starts: files, LoRAs, and the ranks that share a window."""

import logging
import re
from collections.abc import Mapping
from functools import lru_cache

from infinitedub.stages.engines.infinitetalk.settings import InfiniteTalkModel
from infinitedub.stages.engines.settings import EngineSettings
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.settings import GRANULE
from infinitedub.stages.model.token_split import can_share, possible_degrees
from infinitedub.stages.model.weights.audio_width import check_audio_width
from infinitedub.stages.model.weights.faults import describe_fault
from infinitedub.stages.model.weights.file_check import CheckedFiles, WeightFiles, check_file, check_folder
from infinitedub.stages.model.weights.file_format import StoredTensor
from infinitedub.stages.model.weights.keymap import TRANSFORMER, missing_modules, translator, unknown_parameters
from infinitedub.stages.model.weights.lora_names import PATCH_EMBEDDING, fitting_changes, is_other_patch_embedding, read_changes
from infinitedub.stages.model.weights.model_files import base_files, speech_files

logger = logging.getLogger(__name__)

INPUT_CHANNELS = 36
"""Of the patch embedding: 16 of the noisy latents, 4 of the mask, 16 of the reference."""
ADAPTER = "InfiniteTalk's audio weights"
LORA = "LoRA"
SINGLE = re.compile(r"(?:^|[/_.-])single(?:[/_.-]|$)", re.IGNORECASE)
Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of the transformer's parameters, by the network's names."""


def faults_before_start(model: InfiniteTalkModel, settings: EngineSettings, files: WeightFiles) -> list[str]:
    """Everything that is wrong with the files of the model and with how its windows are to be shared, one sentence each."""
    base = check_folder(files, model.weights, base_files)
    speech = check_folder(files, model.speech, speech_files)
    adapter = check_file(files, model.adapter, ADAPTER)
    blocks, heads = transformer_sizes_of(base)
    shapes = parameter_shapes(base.tensors.get("transformer"), adapter.tensors.get(ADAPTER))
    faults = [*base.faults, *adapter.faults, *speech.faults]
    if shapes:
        faults += transformer_faults(model, shapes, blocks)
    faults += audio_faults(model, adapter, speech)
    for lora in model.loras:
        faults += lora_faults(lora.path, check_file(files, lora.path, LORA), shapes)
    if heads:
        faults += split_faults(model, settings.parallel.degree, heads)
    return faults


def voices_fault(model: InfiniteTalkModel, voices: int) -> str:
    """Why a film with that many voices cannot be made; empty if it can.

    The release has an adapter for one person and one for two, of the same shapes: only the names of file and folder tell which is which.
    """
    if voices > 1 and SINGLE.search("/".join(model.adapter.split("/")[-2:])):
        return (
            f"{voices} voices, but the adapter {model.adapter} is for one person; "
            "set generate.model.adapter to the release's multi/infinitetalk.safetensors for rows with two"
        )
    return ""


def transformer_sizes_of(base: CheckedFiles) -> tuple[int, int]:
    """Blocks and attention heads of the transformer, by its config.json in either layout; 0 for what it does not say."""
    config = {**base.objects.get("config.json", {}), **base.objects.get("transformer/config.json", {})}
    blocks, heads = config.get("num_layers"), config.get("num_heads", config.get("num_attention_heads"))
    return (blocks if isinstance(blocks, int) else 0, heads if isinstance(heads, int) else 0)


def parameter_shapes(base: Mapping[str, StoredTensor] | None, adapter: Mapping[str, StoredTensor] | None) -> Shapes:
    """The shapes of the transformer's parameters, of which the adapter's replace those of the base; empty if one of the two could not be read."""
    if base is None or adapter is None:
        return {}
    translate = lru_cache(translator(TRANSFORMER))
    return {(translate(name) or (name,))[0]: tensor.shape for name, tensor in {**base, **adapter}.items()}


def transformer_faults(model: InfiniteTalkModel, shapes: Shapes, blocks: int) -> list[str]:
    """What the transformer lacks, and what it cannot take; `blocks` is 0 if config.json does not say it."""
    if not blocks:
        return [f"{model.weights}: the config.json of the transformer has no num_layers; download it again"]
    patches = shapes.get(PATCH_EMBEDDING, ())
    if len(patches) == 5 and patches[1] != INPUT_CHANNELS:
        return [
            f"{model.weights}: is a transformer with {patches[1]} input channels, wanted one for image to video with {INPUT_CHANNELS}; "
            "set generate.model.weights to Wan2.1-I2V-14B-480P"
        ]
    missing, unknown = missing_modules(shapes, blocks), unknown_parameters(shapes)
    found = "; ".join(fault for fault in (describe_fault("missing", missing), describe_fault("unknown", unknown)) if fault)
    return [f"{model.weights} with {model.adapter}: {found}; wanted Wan2.1-I2V-14B-480P with an adapter of InfiniteTalk"] if found else []


def audio_faults(model: InfiniteTalkModel, adapter: CheckedFiles, speech: CheckedFiles) -> list[str]:
    """Whether adapter and speech encoder belong together, as far as both are known."""
    projection, config = adapter.tensors.get(ADAPTER, {}).get("audio_proj.proj1.weight"), speech.objects.get("config.json", {})
    layers, channels = config.get("num_hidden_layers"), config.get("hidden_size")
    if projection is None or len(projection.shape) != 2 or not isinstance(layers, int) or not isinstance(channels, int):
        return []
    try:
        check_audio_width(model.adapter, projection.shape[1], layers, channels)
    except ConfigError as error:
        return [str(error)]
    return []


def lora_faults(location: str, lora: CheckedFiles, shapes: Shapes) -> list[str]:
    """Whether the LoRA is understood and, if the transformer's shapes are known, fits. Logs what will be left out."""
    if lora.faults:
        return list(lora.faults)
    try:
        changes = read_changes(location, {name: tensor.shape for name, tensor in lora.tensors[LORA].items()}, translator(TRANSFORMER))
        kept = fitting_changes(location, changes, shapes) if shapes else changes
    except ConfigError as error:
        return [str(error)]
    for change in changes:
        if change not in kept and is_other_patch_embedding(change, shapes):
            logger.warning(
                "LoRA %s: its patch_embedding has %d input channels, as for text to video, and the model has %d: that one change is left out, "
                "the other %d are merged",
                location, change.shape[1], shapes[PATCH_EMBEDDING][1], len(kept),
            )  # fmt: skip
    return []


def split_faults(model: InfiniteTalkModel, degree: int, heads: int) -> list[str]:
    """Whether so many ranks can share windows of every frame size."""
    latents = (model.window_frames - 1) // 4 + 1
    tokens = {size: latents * (size[0] // GRANULE) * (size[1] // GRANULE) for size in model.buckets.values()}
    if all(can_share(degree, heads, each) for each in tokens.values()):
        return []
    reasons = [f"{heads} attention heads"] if heads % degree else []
    if odd := [list(size) for size, each in tokens.items() if each % degree]:
        reasons.append(f"the tokens of windows of {', '.join(map(str, odd))} pixels")
    degrees = possible_degrees(heads, tokens.values())
    return [
        f"generate.parallel.degree={degree}: so many ranks cannot share {' and '.join(reasons)} equally; every frame size can be shared by "
        f"{', '.join(map(str, degrees))}: set generate.parallel.degree={max((each for each in degrees if each <= degree), default=1)}"
    ]
