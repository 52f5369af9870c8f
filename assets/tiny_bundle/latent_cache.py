"""The training set as the denoiser sees it: every clip behind the trained autoencoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray
from torch import Tensor

from infinitedub.assets.tiny_bundle.autoencoder import as_video, decode, encode, learn
from infinitedub.assets.tiny_bundle.clips import ADVANCE, COUNTS, SHAPES, STILLS, WINDOW, load_corpus, open_array, open_frames, scene, write_whole
from infinitedub.assets.tiny_bundle.trainer import Crew, short_floats

MOTION = WINDOW - ADVANCE
WHOLE = (WINDOW - 1) // 4 + 1
STEADY = 5  # latents of a picture with grey frames behind it: the last of them is as all that would follow
LENGTHS = dict(first=WHOLE, second=WHOLE, motion=(MOTION - 1) // 4 + 1, opening=STEADY, **dict.fromkeys(STILLS, STEADY))
"""Latents per clip: its two windows; the motion frames between them after a way through the autoencoder and back, which is how the second window
gets them when a film is made; and reference pictures with grey behind them: the clip's first frame and its stills. Of footage, which nobody takes
for a portrait, `opening` and `elsewhere` stay zeros."""
OF_FOOTAGE = ("other_first", "other_second")
ROLLED = {"square": 320, "wide": 128, "tall": 32}
"""How many clips of each shape get motion frames of the denoiser's own making."""


@dataclass(frozen=True)
class Latents:
    """The latents of all clips of a shape, raw (`latent_scale` normalises them): each float16 [clips, 16, frames, H/8, W/8]."""

    first: np.memmap
    second: np.memmap
    motion: np.memmap
    opening: np.memmap
    elsewhere: np.memmap
    other_first: np.memmap
    other_second: np.memmap

    def reference(self, name: str, index: int) -> NDArray[np.float16]:
        """A clip's reference picture of that name with grey behind it, as long as a window: [16, 9, H/8, W/8]."""
        known = getattr(self, name)[index]
        return np.concatenate([known, np.repeat(known[:, -1:], WHOLE - STEADY, axis=1)], axis=1)

    def flush(self) -> None:
        """Returns when all that was written lies on disk: only then may it be noted as done."""
        for name in LENGTHS:
            getattr(self, name).flush()


def open_latents(folder: Path, shape: str) -> Latents:
    return Latents(**{name: open_array(folder / f"{shape}.{name}.npy", array_size(shape, frames), np.float16) for name, frames in LENGTHS.items()})


def open_rolled(folder: Path, shape: str) -> np.memmap:
    """The motion frames between the windows as the denoiser made them; zeros where it did not."""
    return open_array(folder / f"{shape}.rolled.npy", array_size(shape, LENGTHS["motion"]), np.float16)


def array_size(shape: str, frames: int) -> tuple[int, ...]:
    height, width = SHAPES[shape]
    return COUNTS[shape], 16, frames, height // 8, width // 8


def latent_scale(folder: Path, network: AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    """Mean and deviation [16] of the latents of some clips; measured once and kept."""
    path = folder / "scale.pt"
    if not path.exists():
        frames = open_frames(folder, "square")
        with torch.no_grad():
            some = torch.cat([encode(network, as_video(frames[index, :WINDOW])[None].to(network.device)) for index in range(64, 160)]).cpu()
        partial = path.with_suffix(".partial")
        torch.save((some.mean(dim=(0, 2, 3, 4)), some.std(dim=(0, 2, 3, 4))), partial)
        partial.replace(path)
    return torch.load(path, weights_only=True)


@torch.no_grad()
def encode_all(folder: Path, crew: Crew) -> None:
    """Encodes this process's share of the clips; goes on where it was cut off."""
    network, corpus = learn(folder, crew).eval(), load_corpus(folder)
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
            references = OF_FOOTAGE if scene(index, shape, corpus).filmed else ("opening", *STILLS)
            for name, value in encode_clip(network, frames[index], references, crew.device).items():
                getattr(kept, name)[index] = value.float().cpu().numpy()
            if (index // crew.ranks) % 20 == 0:
                kept.flush()
                write_whole(done, str(index + crew.ranks).encode())
        kept.flush()
        write_whole(done, str(COUNTS[shape] + crew.ranks).encode())


def encode_clip(network: AutoencoderKLWan, frames: NDArray[np.uint8], references: Sequence[str], device: torch.device) -> dict[str, Tensor]:
    """The raw latents of one clip and of some of its reference pictures, by their names in `LENGTHS`."""
    video = as_video(frames)[None].to(device)
    stills = torch.cat([video[:, :, [{"opening": 0, **STILLS}[name]]] for name in references])
    with short_floats(device):
        first, second = encode(network, torch.cat([video[:, :, :WINDOW], video[:, :, ADVANCE : ADVANCE + WINDOW]])).split(1)
        pictures = encode(network, with_grey(stills, 4 * STEADY - 3))
        motion = encode(network, decode(network, first)[:, :, -MOTION:].clamp(-1, 1))
    return dict(first=first[0], second=second[0], motion=motion[0], **dict(zip(references, pictures, strict=True)))


def with_grey(pictures: Tensor, frames: int = WINDOW) -> Tensor:
    """Pictures [B, 3, 1, H, W] and the grey frames that fill a window behind them."""
    return torch.nn.functional.pad(pictures, (0, 0, 0, 0, 0, frames - 1))
