"""Writes trained networks in the bundle's layout."""

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from transformers import Wav2Vec2Config

from infinitedub.assets.tiny_bundle import autoencoder, make, mouth_reader, train_denoiser
from infinitedub.assets.tiny_bundle.trainer import Crew


def write_bundle(folder: Path, out: Path) -> None:
    """The bundle, from what training left in `folder`, whole or not at all: its text and picture encoders are `make`'s, random."""
    crew = Crew(0, 1, torch.device("cpu"))
    partial = out.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    make.main(partial)
    mean, std = torch.load(folder / "scale.pt", weights_only=True)
    write_codec(autoencoder.learn(folder, crew), mean, std, partial / "vae")
    make.write_transformer(train_denoiser.learn(folder, crew), train_denoiser.SIZES, partial)
    write_speech(mouth_reader.learn(folder, crew), partial / "wav2vec2")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def write_codec(network: AutoencoderKLWan, mean: torch.Tensor, std: torch.Tensor, out: Path) -> None:
    scale = dict(latents_mean=[round(float(value), 4) for value in mean], latents_std=[round(float(value), 4) for value in std])
    make.write(out, "diffusion_pytorch_model", network, dict(_class_name="AutoencoderKLWan", **autoencoder.CODEC, **scale))


def write_speech(listener: mouth_reader.Listener, out: Path) -> None:
    make.write(out, "model", listener.encoder, Wav2Vec2Config(**make.SPEECH).to_dict())
    make.write_json(out / "preprocessor_config.json", dict(do_normalize=False, feature_size=1, padding_value=0.0, sampling_rate=16000))
