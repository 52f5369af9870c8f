"""Motion frames of the denoiser's own making.

When a film is made, a window goes on from frames that the denoiser made, not from drawn ones. Going on from them is learnt from them: the first
window of a clip is made noisy, but not quite, and made again by the denoiser, so that it moves as it was drawn to move and looks as the denoiser
draws. Its last frames are what the second window, as drawn, is learnt from.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from assets.tiny_bundle.autoencoder import decode, encode
from assets.tiny_bundle.clips import SHAPES, write_whole
from assets.tiny_bundle.decoder import learn as learn_decoder
from assets.tiny_bundle.denoiser import Windows, features_of_corpus, flow_of, learn, untold
from assets.tiny_bundle.latents import MOTION, ROLLED, open_rolled
from assets.tiny_bundle.trainer import Crew
from stages.model.dit import InfiniteTalkTransformer

LEVELS = (0.85, 0.6, 0.3, 0.0)  # how noisy a window is made, and the steps back
AUDIO_SCALE = 2.0  # of the guidance, as in the product's preset
BATCH = 8


@torch.no_grad()
def roll_out_all(folder: Path, crew: Crew) -> None:
    """Makes this process's share; goes on where it was cut off."""
    network = learn(folder, crew, "alone").eval()
    autoencoder = learn_decoder(folder, crew).eval()
    mean, std = (value.view(1, 16, 1, 1, 1).to(crew.device) for value in torch.load(folder / "scale.pt", weights_only=True))
    features = features_of_corpus(folder, crew)
    if crew.rank == 0:
        for shape in SHAPES:
            open_rolled(folder, shape)
    crew.wait()
    for shape in SHAPES:
        windows, rolled = Windows(folder, shape, features), open_rolled(folder, shape)
        done = folder / f"{shape}.rolled.{crew.rank}of{crew.ranks}"
        start = int(done.read_text()) if done.exists() else crew.rank * BATCH
        for first in range(start, ROLLED[shape], crew.ranks * BATCH):
            torch.manual_seed(first)
            indices = range(first, first + BATCH)
            with untold(network):
                made = again(network, windows, indices, crew.device) * std + mean
            with torch.autocast(crew.device.type, torch.bfloat16):
                for index, latents in zip(indices, made, strict=True):
                    frames = decode(autoencoder, latents[None])[:, :, -MOTION:].clamp(-1, 1)
                    rolled[index] = encode(autoencoder, frames)[0].float().cpu().numpy()
            write_whole(done, str(first + crew.ranks * BATCH).encode())


def again(network: InfiniteTalkTransformer, windows: Windows, indices: range, device: torch.device) -> Tensor:
    """The first windows of some clips, normalised, as the denoiser makes them."""
    batch = windows.stack([windows.window(np.random.default_rng(index), index, "first") for index in indices]).to(device)
    latents = (1 - LEVELS[0]) * batch.target + LEVELS[0] * torch.randn_like(batch.target)
    for level, following in pairwise(LEVELS):
        latents = torch.lerp(latents, batch.clean, batch.known)
        at = torch.full((len(latents),), level, device=device)
        spoken, silent = (flow_of(network, latents, batch.condition, batch.audio * heard, at) for heard in (1, 0))
        latents = latents + (silent + AUDIO_SCALE * (spoken - silent)) * (following - level)
    return torch.lerp(latents, batch.clean, batch.known)
