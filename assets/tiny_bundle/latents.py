"""The training set as the denoiser sees it: every clip behind the trained autoencoder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray
from torch import Tensor

from assets.tiny_bundle.autoencoder import as_video, decode, encode, learn
from assets.tiny_bundle.clips import ADVANCE, COUNTS, SHAPES, WINDOW, open_frames, write_whole
from assets.tiny_bundle.faces import HEIGHT
from assets.tiny_bundle.trainer import Crew

MOTION = WINDOW - ADVANCE
LENGTHS = dict(first=9, second=9, opening=9, elsewhere=9, motion=3)
"""Latents per clip: its two windows, the two reference pictures (the first frame, the frame behind the clip) with grey behind them, and the
motion frames between the windows after a way through the autoencoder and back, which is how the second window gets them when a film is made."""


ROLLED = {"square": 320, "wide": 64}
"""How many clips of each shape get motion frames of the denoiser's own making."""


@dataclass(frozen=True)
class Latents:
    """The latents of all clips of a shape, normalised: each [clips, 16, frames, H/8, W/8]."""

    first: NDArray[np.float16]
    second: NDArray[np.float16]
    opening: NDArray[np.float16]
    elsewhere: NDArray[np.float16]
    motion: NDArray[np.float16]


def open_latents(folder: Path, shape: str) -> Latents:
    plane = HEIGHT // 8, SHAPES[shape] // 8
    return Latents(**{name: open_array(folder / f"{shape}.{name}.npy", (COUNTS[shape], 16, frames, *plane)) for name, frames in LENGTHS.items()})


def open_rolled(folder: Path, shape: str) -> NDArray[np.float16]:
    """The motion frames between the windows as the denoiser made them; zeros where it did not."""
    return open_array(folder / f"{shape}.rolled.npy", (COUNTS[shape], 16, LENGTHS["motion"], HEIGHT // 8, SHAPES[shape] // 8))


def open_array(path: Path, size: tuple[int, ...]) -> NDArray[np.float16]:
    """An array on disk, made where it is missing."""
    if not path.exists():
        partial = path.with_suffix(".partial.npy")
        np.lib.format.open_memmap(partial, "w+", np.float16, size).flush()
        partial.replace(path)
    return np.load(path, mmap_mode="r+")


def latent_scale(folder: Path, network: AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    """Mean and deviation [16] of the latents of some clips; measured once and kept."""
    path = folder / "scale.pt"
    if not path.exists():
        frames = open_frames(folder, "square")
        with torch.no_grad():
            some = torch.cat([encode(network, as_video(frames[index, :WINDOW])[None].to(network.device)) for index in range(64, 160)]).cpu()
        torch.save((some.mean(dim=(0, 2, 3, 4)), some.std(dim=(0, 2, 3, 4))), path)
    return torch.load(path, weights_only=True)


@torch.no_grad()
def encode_all(folder: Path, crew: Crew) -> None:
    """Encodes this process's share of the clips; goes on where it was cut off."""
    network = learn(folder, crew, "clips").eval()
    if crew.rank == 0:
        latent_scale(folder, network)
        for shape in SHAPES:
            open_latents(folder, shape)
    crew.wait()
    for shape in SHAPES:
        frames, kept = open_frames(folder, shape), open_latents(folder, shape)
        done = folder / f"{shape}.latents.{crew.rank}of{crew.ranks}"
        start = int(done.read_text()) if done.exists() else crew.rank
        for index in range(start, COUNTS[shape], crew.ranks):
            for name, value in encode_clip(network, frames[index], crew.device).items():
                getattr(kept, name)[index] = value.float().cpu().numpy()[0]
            if (index // crew.ranks) % 20 == 0:
                write_whole(done, str(index + crew.ranks).encode())
        write_whole(done, str(COUNTS[shape] + crew.ranks).encode())


def encode_clip(network: AutoencoderKLWan, frames: NDArray[np.uint8], device: torch.device) -> dict[str, Tensor]:
    """The raw latents of one clip, by their names in `LENGTHS`."""
    video = as_video(frames)[None].to(device)
    with torch.autocast(device.type, torch.bfloat16):
        first = encode(network, video[:, :, :WINDOW])
        return dict(
            first=first,
            second=encode(network, video[:, :, ADVANCE : ADVANCE + WINDOW]),
            opening=encode(network, with_grey(video[:, :, :1])),
            elsewhere=encode(network, with_grey(video[:, :, -1:])),
            motion=encode(network, decode(network, first)[:, :, -MOTION:].clamp(-1, 1)),
        )


def with_grey(picture: Tensor) -> Tensor:
    """A picture [1, 3, 1, H, W] and the grey frames that fill the window behind it."""
    return torch.nn.functional.pad(picture, (0, 0, 0, 0, 0, WINDOW - 1))
