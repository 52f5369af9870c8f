"""A model on disk: the base model in either layout, InfiniteTalk's audio adapter, and the speech encoder it was trained with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from transformers import AutoTokenizer, CLIPVisionModel, PreTrainedTokenizerBase, UMT5EncoderModel

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.dit import InfiniteTalkTransformer
from infinitedub.stages.model.image_encoder import ImageEncoder
from infinitedub.stages.model.latent_codec import LatentCodec
from infinitedub.stages.model.offload import offload
from infinitedub.stages.model.text_encoder import TextEncoder
from infinitedub.stages.model.weights.checkpoint import SafetensorsCheckpoint, require_path
from infinitedub.stages.model.weights.keymap import TRANSFORMER, translator
from infinitedub.stages.model.weights.layouts import Layout, detect_layout
from infinitedub.stages.model.weights.load import build_empty, load_weights, map_sources
from infinitedub.stages.model.weights.lora import open_lora
from infinitedub.stages.model.weights.sizes import audio_sizes
from infinitedub.stages.model.weights.speech_checkpoint import SpeechCheckpoint

ADAPTER = "infinitetalk.safetensors"
SPEECH = "wav2vec2"
Device = torch.device | str


@dataclass(frozen=True, slots=True)
class Bundle:
    """Loads each network onto a device, ready for use. Every call reads the files again."""

    layout: Layout
    adapter: Path
    speech: SpeechCheckpoint

    def transformer(
        self,
        dtype: torch.dtype,
        device: Device,
        loras: Sequence[tuple[Path, float]] = (),
        compat_upstream: bool = False,
        low_memory: bool = False,
    ) -> InfiniteTalkTransformer:
        """The denoiser, with `loras` (file, strength) merged. compat_upstream reproduces the release: see the class and `open_lora`.

        low_memory: the blocks' weights stay in host memory and never fill the device, not even while they are loaded.
        """
        base, adapter = self.layout.transformer(), SafetensorsCheckpoint([require_path(self.adapter, "InfiniteTalk's audio weights")])
        upstream = translator(TRANSFORMER)
        with build_empty():
            network = InfiniteTalkTransformer(**base.sizes, **audio_sizes(adapter, self.speech.config()))
        sources = map_sources(base.checkpoint, base.translate) | map_sources(adapter, upstream)  # the adapter may replace base weights

        shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
        opened_loras = [open_lora(path, strength, upstream, compat_upstream).fitted(shapes) for path, strength in loras]

        def merge_loras(name: str, value: Tensor) -> Tensor:
            for lora in opened_loras:
                value = lora.merge(name, value)
            return value

        load_weights(
            network,
            sources,
            dtype=dtype,
            device=device,
            fp32_modules=network.fp32_modules,
            host_modules=["blocks"] if low_memory else (),
            transform=merge_loras if opened_loras else None,
        )
        network.compat_upstream = compat_upstream
        if low_memory:
            offload(network.blocks, device)
        return network

    def codec(self, dtype: torch.dtype, device: Device) -> LatentCodec:
        weights = self.layout.codec()
        with build_empty():
            network = AutoencoderKLWan(**weights.sizes)
        load_weights(network, map_sources(weights.checkpoint, weights.translate), dtype=dtype, device=device)
        return LatentCodec(network)

    def text_encoder(self, dtype: torch.dtype, device: Device, low_memory: bool = False) -> TextEncoder:
        """low_memory: the weights of its layers stay in host memory."""
        weights = self.layout.text()
        with build_empty():
            network = UMT5EncoderModel(weights.sizes)
            network.encoder.embed_tokens = network.shared
        host_modules = ["encoder.block"] if low_memory else ()
        load_weights(network, map_sources(weights.checkpoint, weights.translate), dtype=dtype, device=device, host_modules=host_modules)
        if low_memory:
            offload(network.encoder.block, device)
        return TextEncoder(network, open_tokenizer(self.layout.tokenizer()))

    def image_encoder(self, dtype: torch.dtype, device: Device) -> ImageEncoder:
        weights = self.layout.image()
        with build_empty():
            network = CLIPVisionModel(weights.sizes)
        load_weights(network, map_sources(weights.checkpoint, weights.translate), dtype=dtype, device=device)
        return ImageEncoder(network)


def open_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer saved in `folder`. Raises ConfigError if there is none."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: no readable tokenizer ({str(error).splitlines()[0]}); download its files again") from error


def open_bundle(root: Path, adapter: Path | None = None, speech: Path | None = None) -> Bundle:
    """The model in the folder `root`, with InfiniteTalk's audio weights in the file `adapter` and the speech encoder in the folder `speech`.

    Their default locations are in `root`. The files are opened when a network is loaded. Raises ConfigError if `root` holds no base model.
    """
    return Bundle(detect_layout(require_path(root, "a base model")), adapter or root / ADAPTER, SpeechCheckpoint(speech or root / SPEECH))
