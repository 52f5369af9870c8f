"""Teaches the autoencoder's decoder for longer. The stored latents stay what they are, so this goes on beside the denoiser's lessons."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from assets.tiny_bundle.autoencoder import HELD_OUT, LAYOUT, SIGMA, Footage, as_video, decibels, decode, likeness_loss
from assets.tiny_bundle.autoencoder import learn as learn_autoencoder
from assets.tiny_bundle.clips import ADVANCE, WINDOW
from assets.tiny_bundle.faces import HEIGHT
from assets.tiny_bundle.latents import open_latents
from assets.tiny_bundle.trainer import Crew, Plan, train

PLAN = Plan(seed=41, steps=650, muon=1.5e-3, adam=8e-4, hold=0.4)
BATCH = 4
LATENTS = 5  # of a window's beginning, and so 17 frames
MOUTH = 8  # times as heavy as the rest of the picture


def learn(folder: Path, crew: Crew) -> AutoencoderKLWan:
    """The autoencoder, its decoder trained to the end."""
    network = learn_autoencoder(folder, crew, "clips")
    network.encoder.requires_grad_(False)
    network.quant_conv.requires_grad_(False)
    footage, latents = Footage(folder, "square"), open_latents(folder, "square")

    def loss(rng: np.random.Generator, _: float) -> Tensor:
        told, videos, weights = [], [], []
        for index in rng.integers(HELD_OUT, len(footage.boxes), BATCH // crew.ranks):
            second = bool(rng.random() < 0.5)
            start = second * ADVANCE
            told.append(torch.from_numpy((latents.second if second else latents.first)[index, :, :LATENTS].astype(np.float32)))
            videos.append(as_video(footage.frames[index, start : start + 4 * LATENTS - 3]))
            weight = torch.ones(1, 1, HEIGHT, footage.width)
            weight[:, :, *footage.boxes[index]] = MOUTH
            weights.append(weight)
        noisy = torch.stack(told).to(crew.device)
        noisy = (noisy + SIGMA * torch.randn_like(noisy)).contiguous(memory_format=LAYOUT)
        with torch.autocast(crew.device.type, torch.bfloat16):
            made = decode(network, noisy)
        return likeness_loss(made.float(), torch.stack(videos).to(crew.device), torch.stack(weights).to(crew.device))

    train(network, loss, PLAN, folder / "decoder.pt", crew, lambda: f"{decibels(network, footage, WINDOW):.2f} dB")
    return network
