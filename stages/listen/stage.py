"""Listen: encodes the new speech as in training: wav2vec2 features, one row per film frame."""

from typing import TYPE_CHECKING

from infinitedub.stages.contract import Files, Rank
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.listen.settings import ListenSettings
from infinitedub.stages.records import Source, Speech

if TYPE_CHECKING:
    import numpy as np

    from infinitedub.stages.model.speech_encoder import SpeechEncoder


class ListenStage:
    """Source in, Speech out: a float32 row for every frame up to the end of the speech. Memory use does not grow with their length."""

    def __init__(self, config: ListenSettings) -> None:
        self.config = config
        self._encoder: tuple[SpeechEncoder, np.ndarray] | None = None  # with its features of silence

    def open(self, rank: Rank) -> None:
        import torch

        from infinitedub.stages.listen.speech_features import silence_row
        from infinitedub.stages.model.weights.paths import resolve_weights
        from infinitedub.stages.model.weights.speech_checkpoint import SpeechCheckpoint

        encoder = SpeechCheckpoint(resolve_weights(self.config.speech)).encoder(torch.float32, rank.device)
        self._encoder = encoder, silence_row(encoder)

    def __call__(self, source: Source, *, files: Files) -> Speech:
        from infinitedub.stages.listen.frame_alignment import FRAME_RATE
        from infinitedub.stages.listen.sample_file import SampleFile
        from infinitedub.stages.listen.speech_features import write_speech_features
        from infinitedub.stages.media.audio_io import mono_blocks
        from infinitedub.stages.model.speech_encoder import SAMPLE_RATE

        if self._encoder is None:
            raise RuntimeError("ListenStage is called before open()")
        encoder, silence = self._encoder
        if source.fps != FRAME_RATE:
            raise ConfigError(
                f"the film has {source.fps:g} frames per second, but the speech encoder gives {FRAME_RATE} rows; set generate.model.fps={FRAME_RATE}"
            )
        folder = files.scratch()
        sounds = [
            SampleFile(folder / f"voice-{number}.f32", mono_blocks(files.fetch(voice.sound), SAMPLE_RATE))
            for number, voice in enumerate(source.voices)
        ]
        path = folder / "speech.safetensors"
        n_frames, lufs = write_speech_features(path, source.voices, sounds, silence, encoder, self.config)
        return Speech(files.store(path, "tensors/safetensors"), n_frames, lufs)

    def close(self) -> None:
        self._encoder = None
