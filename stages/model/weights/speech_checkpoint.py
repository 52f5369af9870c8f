"""The speech encoder on disk: a wav2vec2 folder."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.speech_encoder import SAMPLE_RATE, SpeechEncoder
from infinitedub.stages.model.weights.checkpoint import Checkpoint, SafetensorsCheckpoint, open_pickle, require_path
from infinitedub.stages.model.weights.keymap import SAVED_SPEECH, translator
from infinitedub.stages.model.weights.layouts import read_json
from infinitedub.stages.model.weights.load import build_empty, load_weights, map_sources


@dataclass(frozen=True, slots=True)
class SpeechCheckpoint:
    """A folder with config.json, preprocessor_config.json, and model.safetensors or pytorch_model.bin.

    Its methods raise ConfigError if a file is missing or does not fit.
    """

    folder: Path

    def encoder(self, dtype: torch.dtype, device: torch.device | str) -> SpeechEncoder:
        """The encoder on `device`, ready for use."""
        require_path(self.folder, "the wav2vec2 speech encoder")
        preprocessor = read_json(self.folder / "preprocessor_config.json")
        if preprocessor.get("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
            raise ConfigError(f"{self.folder}: the speech encoder takes {preprocessor['sampling_rate']} Hz; only {SAMPLE_RATE} Hz is supported")
        with build_empty():
            network = Wav2Vec2Model(self.config())
        load_weights(network, map_sources(self._checkpoint(), translator(SAVED_SPEECH)), dtype=dtype, device=device)
        return SpeechEncoder(network, normalise=bool(preprocessor.get("do_normalize", True)))

    def config(self) -> Wav2Vec2Config:
        """Its configuration without the masks of training, whose parameter is not loaded."""
        require_path(self.folder, "the wav2vec2 speech encoder")
        return Wav2Vec2Config(**read_json(self.folder / "config.json") | {"mask_time_prob": 0.0, "mask_feature_prob": 0.0})

    def _checkpoint(self) -> Checkpoint:
        single = self.folder / "model.safetensors"
        if single.is_file():
            return SafetensorsCheckpoint([single])
        return open_pickle(require_path(self.folder / "pytorch_model.bin", "the wav2vec2 speech encoder, if there is no model.safetensors"))
