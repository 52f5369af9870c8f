"""The speech encoder as it lies on disk: a wav2vec2 folder."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.speech_encoder import SAMPLE_RATE, SpeechEncoder
from infinitedub.stages.model.weights.checkpoint import Checkpoint, Safetensors, need, unpickle
from infinitedub.stages.model.weights.keymap import SAVED_SPEECH, translator
from infinitedub.stages.model.weights.layouts import read_json
from infinitedub.stages.model.weights.load import build_empty, fill, trace


@dataclass(frozen=True, slots=True)
class SpeechCheckpoint:
    """A folder with config.json, preprocessor_config.json, and model.safetensors or pytorch_model.bin.

    Its methods raise ConfigError where one is missing or does not fit.
    """

    folder: Path

    def encoder(self, dtype: torch.dtype, device: torch.device | str) -> SpeechEncoder:
        """The network, ready for use."""
        need(self.folder, "the wav2vec2 speech encoder")
        preparation = read_json(self.folder / "preprocessor_config.json")
        if preparation.get("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
            raise ConfigError(f"{self.folder}: a speech encoder for {preparation['sampling_rate']} Hz; {SAMPLE_RATE} Hz is what it is given")
        with build_empty():
            network = Wav2Vec2Model(self.config())
        fill(network, trace(self._checkpoint(), translator(SAVED_SPEECH)), dtype=dtype, device=device)
        return SpeechEncoder(network, normalise=bool(preparation.get("do_normalize", True)))

    def config(self) -> Wav2Vec2Config:
        """Its sizes, without the masks of its training: their parameter is neither wanted nor loaded."""
        need(self.folder, "the wav2vec2 speech encoder")
        return Wav2Vec2Config(**read_json(self.folder / "config.json") | {"mask_time_prob": 0.0, "mask_feature_prob": 0.0})

    def _checkpoint(self) -> Checkpoint:
        whole = self.folder / "model.safetensors"
        if whole.is_file():
            return Safetensors([whole])
        return unpickle(need(self.folder / "pytorch_model.bin", "the wav2vec2 speech encoder, unless model.safetensors does"))
