"""A model as it lies on disk: the base in either layout, InfiniteTalk's adapter, and the ear that it was trained with."""

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
from infinitedub.stages.model.text_encoder import TextEncoder
from infinitedub.stages.model.weights.checkpoint import Safetensors, need
from infinitedub.stages.model.weights.keymap import TRANSFORMER, translator
from infinitedub.stages.model.weights.layouts import Layout, recognise
from infinitedub.stages.model.weights.load import build_empty, fill, trace
from infinitedub.stages.model.weights.lora import open_lora
from infinitedub.stages.model.weights.sizes import audio_sizes
from infinitedub.stages.model.weights.speech_checkpoint import SpeechCheckpoint

ADAPTER = "infinitetalk.safetensors"
SPEECH = "wav2vec2"
Device = torch.device | str


@dataclass(frozen=True, slots=True)
class Bundle:
    """Gives each network on a device, ready for use. Every call reads the files anew."""

    layout: Layout
    adapter: Path
    ear: SpeechCheckpoint

    def transformer(
        self, dtype: torch.dtype, device: Device, loras: Sequence[tuple[Path, float]] = (), compat_upstream: bool = False
    ) -> InfiniteTalkTransformer:
        """The denoiser, with `loras` (file, strength) merged. compat_upstream repeats the release's oddities: see the class, and `open_lora`."""
        part, adapter = self.layout.transformer(), Safetensors([need(self.adapter, "InfiniteTalk's audio weights")])
        upstream = translator(TRANSFORMER)
        with build_empty():
            network = InfiniteTalkTransformer(**part.sizes, **audio_sizes(adapter, self.ear.config()))
        origins = trace(part.checkpoint, part.translate) | trace(adapter, upstream)  # the adapter may bring base weights of its own

        opened = [open_lora(path, strength, upstream, compat_upstream) for path, strength in loras]
        for lora in opened:
            lora.check({name: parameter.shape for name, parameter in network.named_parameters()})

        def merge(name: str, value: Tensor) -> Tensor:
            for lora in opened:
                value = lora.merge(name, value)
            return value

        fill(network, origins, dtype=dtype, device=device, fp32_modules=network.fp32_modules, alter=merge if opened else None)
        network.compat_upstream = compat_upstream
        return network

    def codec(self, dtype: torch.dtype, device: Device) -> LatentCodec:
        part = self.layout.codec()
        with build_empty():
            network = AutoencoderKLWan(**part.sizes)
        fill(network, trace(part.checkpoint, part.translate), dtype=dtype, device=device)
        return LatentCodec(network)

    def text_encoder(self, dtype: torch.dtype, device: Device) -> TextEncoder:
        part = self.layout.text()
        with build_empty():
            network = UMT5EncoderModel(part.sizes)
            network.encoder.embed_tokens = network.shared
        fill(network, trace(part.checkpoint, part.translate), dtype=dtype, device=device)
        return TextEncoder(network, open_tokenizer(self.layout.tokenizer()))

    def image_encoder(self, dtype: torch.dtype, device: Device) -> ImageEncoder:
        part = self.layout.image()
        with build_empty():
            network = CLIPVisionModel(part.sizes)
        fill(network, trace(part.checkpoint, part.translate), dtype=dtype, device=device)
        return ImageEncoder(network)


def open_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer saved in `folder`. Raises ConfigError where there is none."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: no tokenizer can be read from it ({str(error).splitlines()[0]}); fetch its files again") from error


def open_bundle(root: Path, adapter: Path | None = None, speech: Path | None = None) -> Bundle:
    """The model in the folder `root`, with InfiniteTalk's audio weights in the file `adapter` and the speech encoder in the folder `speech`.

    Where those two are not given they are looked for in `root`. Files are looked at when they are asked for; raises ConfigError where `root` holds
    no base model.
    """
    return Bundle(recognise(need(root, "a base model")), adapter or root / ADAPTER, SpeechCheckpoint(speech or root / SPEECH))
