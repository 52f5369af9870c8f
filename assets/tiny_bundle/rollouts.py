"""Motion frames of the denoiser's own making.

When a film is made, a window goes on from frames that the denoiser made, not from drawn ones. Going on from them is learnt from them: the first
window of a clip is made noisy, but not quite, and made again by the denoiser, so that it moves as it was drawn to move and looks as the denoiser
draws. Its last frames are what the second window, as drawn, is learnt from.

Of footage the first window is made from noise alone, so that in the end the head is not where the footage has it. The second window's reference shows
where it shall be, and so going there is learnt.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from infinitedub.assets.tiny_bundle.autoencoder import decode, encode
from infinitedub.assets.tiny_bundle.autoencoder import learn as learn_autoencoder
from infinitedub.assets.tiny_bundle.clips import write_whole
from infinitedub.assets.tiny_bundle.latent_cache import MOTION, ROLLED, open_rolled
from infinitedub.assets.tiny_bundle.train_denoiser import KINDS, LESSONS, SHIFT, STEPS, SpeechCheckpoint, Windows, flow_of, learn, untold
from infinitedub.assets.tiny_bundle.trainer import Crew, short_floats
from infinitedub.stages.model.dit import InfiniteTalkTransformer
from infinitedub.stages.sampling.schedules import shifted_sigmas

AUDIO_SCALE = 1.75  # of the guidance, as in the product's preset
BATCH = 8


@torch.no_grad()
def roll_out_all(folder: Path, crew: Crew) -> None:
    """Makes this process's share; goes on where it was cut off."""
    network = learn(folder, crew, "alone").eval()
    autoencoder = learn_autoencoder(folder, crew).eval()
    ear = SpeechCheckpoint(folder, crew)
    if crew.rank == 0:
        for shape in ROLLED:
            open_rolled(folder, shape)
    crew.wait()
    for lesson in dict.fromkeys(LESSONS["chained"]):
        windows = Windows(folder, lesson, ear)
        rolled = open_rolled(folder, windows.shape)
        mean, std = windows.mean.to(crew.device), windows.std.to(crew.device)
        done = folder / f"{lesson}.rolled.{crew.rank}of{crew.ranks}"
        batches = batches_of([index for index in windows.chosen(footage=False, held_out=False) if index < ROLLED[windows.shape]])
        batches += batches_of([index for index, drawn in windows.scenes.items() if drawn.filmed and index < ROLLED[windows.shape]])
        for number in range(int(done.read_text()) if done.exists() else crew.rank, len(batches), crew.ranks):
            torch.manual_seed(number)
            with untold(network):
                made = again(network, windows, batches[number], crew.device) * std + mean
            with short_floats(crew.device):
                for index, latents in zip(batches[number], made, strict=True):
                    frames = decode(autoencoder, latents[None])[:, :, -MOTION:].float().clamp(-1, 1)
                    rolled[index] = encode(autoencoder, frames)[0].float().cpu().numpy()
            rolled.flush()
            write_whole(done, str(number + crew.ranks).encode())


def batches_of(indices: list[int]) -> list[tuple[int, ...]]:
    return [tuple(indices[start : start + BATCH]) for start in range(0, len(indices), BATCH)]


def again(network: InfiniteTalkTransformer, windows: Windows, indices: tuple[int, ...], device: torch.device) -> Tensor:
    """The first windows of some clips, normalised, as the denoiser makes them: footage from noise, others from the sampler's second level on."""
    footage = windows.scenes[indices[0]].filmed is not None
    kind = KINDS["dubbed" if footage else "portrait"]
    batch = windows.stack([windows.window(np.random.default_rng(index), index, kind) for index in indices]).to(device)
    noises = shifted_sigmas(STEPS, SHIFT)[0 if footage else 1 :].tolist()
    latents = (1 - noises[0]) * batch.target + noises[0] * torch.randn_like(batch.target)
    everybody = torch.ones(len(latents), device=device)
    for level, following in pairwise(noises):
        latents = torch.lerp(latents, batch.clean, batch.known)
        spoken, silent = (flow_of(network, latents, batch, level * everybody, heard * everybody) for heard in (1, 0))
        latents = latents + (silent + AUDIO_SCALE * (spoken - silent)) * (following - level)
    return torch.lerp(latents, batch.clean, batch.known)
