"""Writes trained networks in the bundle's layout."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from transformers import Wav2Vec2Config

from assets.tiny_bundle import autoencoder, denoiser, hearing, make
from assets.tiny_bundle.trainer import Crew
from stages.model.dit import InfiniteTalkTransformer


def write_bundle(folder: Path, out: Path) -> None:
    """The bundle, from what training left in `folder`: its text and picture encoders are `make`'s, random."""
    crew = Crew(0, 1, torch.device("cpu"))
    make.main(out)
    mean, std = torch.load(folder / "scale.pt", weights_only=True)
    write_codec(autoencoder.learn(folder, crew), mean, std, out / "vae")
    write_transformer(denoiser.learn(folder, crew), out)
    config = Wav2Vec2Config(**make.SPEECH).to_dict()
    make.write(out / "wav2vec2", "model", hearing.learn(folder, crew).encoder, config)
    make.write_json(out / "wav2vec2" / "preprocessor_config.json", dict(do_normalize=False, feature_size=1, padding_value=0.0, sampling_rate=16000))


def write_codec(network: AutoencoderKLWan, mean: torch.Tensor, std: torch.Tensor, out: Path) -> None:
    scale = dict(latents_mean=[round(float(value), 4) for value in mean], latents_std=[round(float(value), 4) for value in std])
    make.write(out, "diffusion_pytorch_model", network, dict(_class_name="AutoencoderKLWan", **autoencoder.CODEC, **scale))


def write_transformer(network: InfiniteTalkTransformer, out: Path) -> None:
    """The base into transformer/, what InfiniteTalk adds into infinitetalk.safetensors."""
    weights = make.halved(network)
    audio = {name: weight for name, weight in weights.items() if any(part in name for part in make.AUDIO_NAMES)}
    base = {name: weight for name, weight in weights.items() if name not in audio}
    make.write_json(out / "transformer" / "config.json", dict(_class_name="WanTransformer3DModel", **denoiser.SIZES))
    save_file(base, out / "transformer" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    save_file(audio, out / "infinitetalk.safetensors", metadata={"format": "pt"})
