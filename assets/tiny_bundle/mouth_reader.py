"""Teaches the speech encoder: its features must tell how far and how wide the mouth is open. The denoiser then learns from these features."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from infinitedub.assets.tiny_bundle.clips import load_corpus
from infinitedub.assets.tiny_bundle.make import SPEECH
from infinitedub.assets.tiny_bundle.trainer import Crew, Plan, train
from infinitedub.assets.tiny_bundle.voices import Utterance, unseen_utterance
from infinitedub.stages.model.speech_encoder import FRAME_SAMPLES, SpeechEncoder, collect_outputs

PLAN = Plan(seed=21, steps=1100, muon=2e-3, adam=2e-3, hold=0.5)
BATCH = 6
MOUTH = torch.tensor([1.0, 0.5])  # weights of openness and width


class Listener(nn.Module):
    """The encoder, and what is read from its features while it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Wav2Vec2Model(Wav2Vec2Config(**SPEECH)).eval()  # in training mode it would drop layers
        config = self.encoder.config
        self.read = nn.Linear(config.num_hidden_layers * config.hidden_size, 2)

    def forward(self, sounds: Tensor, frames: int) -> Tensor:
        """Openness and width [B, frames, 2] of `sounds` [B, samples]; as `SpeechEncoder` does, but for a batch."""
        features = F.interpolate(self.encoder.feature_extractor(sounds), size=frames, mode="linear", align_corners=True)
        hidden, _ = self.encoder.feature_projection(features.transpose(1, 2))
        with collect_outputs(self.encoder.encoder.layers) as layers:
            self.encoder.encoder(hidden)
        return self.read(torch.cat(layers, dim=-1))


def learn(folder: Path, crew: Crew) -> Listener:
    """The listener, trained."""
    corpus = load_corpus(folder)
    unseen = [unseen_utterance(index, 6.0) for index in range(8)]
    torch.manual_seed(PLAN.seed)
    listener = Listener().to(crew.device)

    def loss(rng: np.random.Generator, _: float) -> Tensor:
        sounds, mouths = crops(rng, corpus, int(rng.integers(40, 110)))
        told = listener(sounds.to(crew.device), mouths.shape[1])
        return ((told - mouths.to(crew.device)).abs() * MOUTH.to(crew.device)).mean()

    def report() -> str:
        told = [opening(listener, utterance.sound) for utterance in unseen]
        quiet = [opening(listener, level * np.random.default_rng(0).standard_normal(64_000)).max() for level in (0, 1e-3, 0.07)]
        close = np.mean([np.corrcoef(one, utterance.openness)[0, 1] for one, utterance in zip(told, unseen, strict=True)])
        return f"r {close:.3f} on unseen voices; zeros, -60 dB and -23 dB of noise open the mouth by " + ", ".join(f"{most:.3f}" for most in quiet)

    train(listener, loss, PLAN, folder / "hearing.pt", crew, report)
    return listener


def crops(rng: np.random.Generator, corpus: list[Utterance], frames: int) -> tuple[Tensor, Tensor]:
    """Pieces of `frames` film frames: sounds [B, samples] and mouths [B, frames, 2]."""
    sounds: list[np.ndarray] = []
    mouths: list[np.ndarray] = []
    while len(sounds) < BATCH:
        utterance = corpus[int(rng.integers(len(corpus)))]
        if len(utterance.openness) <= frames:
            continue
        start = int(rng.integers(len(utterance.openness) - frames))
        sounds.append(utterance.sound[start * FRAME_SAMPLES : (start + frames) * FRAME_SAMPLES])
        mouths.append(np.stack([utterance.openness, utterance.width], axis=1)[start : start + frames])
    return torch.from_numpy(np.stack(sounds)), torch.from_numpy(np.stack(mouths)).float()


@torch.no_grad()
def opening(listener: Listener, sound: np.ndarray) -> np.ndarray:
    """The openness that the product's own encoder tells of a sound."""
    features = SpeechEncoder(listener.encoder, normalise=False)(sound.astype(np.float32))
    return listener.read(features.flatten(1))[:, 0].cpu().numpy()
