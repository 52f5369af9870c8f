"""Teaches the video autoencoder: single pictures first, then clips.

Learning from clips at once gets nowhere in the time there is. So the temporal kernels begin with all their weight on the present frame, where
a picture costs what a two-dimensional network would; the picture autoencoder that comes out is a video autoencoder already, only a poor one.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample, WanRMS_norm
from einops import rearrange
from torch import Tensor, nn

from assets.tiny_bundle.clips import COUNTS, SHAPES, WINDOW, load_corpus, open_frames, scene
from assets.tiny_bundle.faces import HEIGHT, mouth_box
from assets.tiny_bundle.make import CODEC
from assets.tiny_bundle.trainer import Crew, Plan, train

HELD_OUT = 16  # clips of each shape that no network learns from
SIGMA = 0.05  # of the noise on the latents while learning, so that near latents mean near pictures
PICTURES = Plan(seed=11, steps=1000, muon=3e-3, adam=1.5e-3, hold=0.5)
CLIPS = Plan(seed=12, steps=1700, muon=2e-3, adam=1e-3, hold=0.5)
LAYOUT = torch.channels_last_3d  # twice as fast as the default on CPUs, in bfloat16


class WholeResample(WanResample):
    """Resamples a whole clip at once; gives what the chunks of diffusers' own loop give. Up means twice the frames but for the first."""

    def forward(self, x: Tensor, feat_cache: object = None, feat_idx: object = None) -> Tensor:
        batch = x.shape[0]
        if self.mode == "upsample3d" and x.shape[2] > 1:
            pairs = rearrange(self.time_conv(x[:, :, 1:]), "b (two c) t h w -> b c (t two) h w", two=2)
            x = torch.cat([x[:, :, :1], pairs], dim=2)
        x = rearrange(self.resample(rearrange(x, "b c t h w -> (b t) c h w")), "(b t) c h w -> b c t h w", b=batch)
        if self.mode == "downsample3d" and x.shape[2] > 1:
            x = torch.cat([x[:, :, :1], self.time_conv(x)], dim=2)
        return x


class WholeConv(WanCausalConv3d):
    """A causal convolution that spends no time on the frames before the first."""

    def forward(self, x: Tensor, cache_x: object = None) -> Tensor:
        if x.shape[2] > 1 or self.stride[0] > 1:
            return super().forward(x)
        return F.conv2d(x[:, :, 0], self.weight[:, :, -1], self.bias, padding=(self._padding[2], self._padding[0])).unsqueeze(2)


class WholeNorm(WanRMS_norm):
    """The same norm in one fused operation; channels lie next to each other in `LAYOUT`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.movedim(1, -1), (x.shape[1],), self.gamma.flatten().to(x.dtype), 1e-12).movedim(-1, 1)


def whole(network: AutoencoderKLWan) -> AutoencoderKLWan:
    """The same network, able to learn: its encoder and decoder take whole clips."""
    swap = {WanResample: WholeResample, WanCausalConv3d: WholeConv, WanRMS_norm: WholeNorm}
    for module in network.modules():
        module.__class__ = swap.get(type(module), type(module))
    return network


def encode(network: AutoencoderKLWan, video: Tensor) -> Tensor:
    """The mean latents [B, 16, T, H/8, W/8] of `video` [B, 3, F, H, W] in [-1, 1], not normalised."""
    return network.quant_conv(network.encoder(video))[:, :16]


def decode(network: AutoencoderKLWan, latents: Tensor) -> Tensor:
    return network.decoder(network.post_quant_conv(latents))


def begin() -> AutoencoderKLWan:
    """A network whose temporal kernels look at the present alone."""
    torch.manual_seed(PICTURES.seed)
    network = whole(AutoencoderKLWan(**CODEC))
    with torch.no_grad():
        network.quant_conv.weight[16:] = 0  # the posterior's deviation is not learnt: nobody draws from it
        network.quant_conv.bias[16:] = -6
        for name, module in network.named_modules():
            if not isinstance(module, WanCausalConv3d):
                continue
            if module.kernel_size == (3, 3, 3):
                module.weight[:, :, -1] *= 3**0.5
                module.weight[:, :, :-1] = 0
            if name.endswith("time_conv"):
                outputs, inputs = module.weight.shape[:2]
                module.weight.zero_()
                module.bias.zero_()
                module.weight[:, :, -1, 0, 0] = torch.eye(inputs).repeat(outputs // inputs, 1)
    return network


class Footage:
    """Batches of drawn clips with a weight for each pixel: mouths are small and matter most."""

    def __init__(self, folder: Path, shape: str) -> None:
        corpus = load_corpus(folder)
        self.frames = open_frames(folder, shape)
        self.width = SHAPES[shape]
        self.boxes = [mouth_box(scene(index, shape, corpus)[0].portrait) for index in range(COUNTS[shape])]

    def batch(self, rng: np.random.Generator, size: int, frames: int) -> tuple[Tensor, Tensor]:
        """Video [B, 3, frames, H, W] in [-1, 1] and weights [B, 1, frames, H, W].

        Some are one picture and then grey, as the denoiser is told its reference.
        """
        videos, weights = [], []
        for _ in range(size):
            index = int(rng.integers(HELD_OUT, len(self.boxes)))
            start = int(rng.integers(0, self.frames.shape[1] - frames))
            video = as_video(self.frames[index, start : start + frames])
            weight = torch.ones(1, frames, HEIGHT, self.width)
            weight[:, :, *self.boxes[index]] = 4
            if frames > 1 and rng.random() < 0.1:
                video[:, 1:] = 0
                weight[:, 1:] = 0.15
            if rng.random() < 0.5:
                video, weight = video.flip(-1), weight.flip(-1)
            videos.append(video)
            weights.append(weight)
        return torch.stack(videos), torch.stack(weights)


def as_video(frames: np.ndarray) -> Tensor:
    """[F, H, W, 3] of bytes as [3, F, H, W] in [-1, 1]."""
    return rearrange(torch.from_numpy(np.asarray(frames, np.float32)), "f h w c -> c f h w") / 127.5 - 1


def likeness_loss(made: Tensor, video: Tensor, weights: Tensor) -> Tensor:
    """Mean absolute difference of colours, and of their edges."""
    colours = (weights * (made - video).abs()).mean() / weights.mean()
    wrong = made - video
    edges = wrong.diff(dim=-1).abs().mean() + wrong.diff(dim=-2).abs().mean()
    return colours + 0.5 * edges


@torch.no_grad()
def decibels(network: AutoencoderKLWan, footage: Footage, frames: int) -> float:
    """The likeness (PSNR) of held-out clips behind the autoencoder."""
    videos = torch.stack([as_video(footage.frames[index, :frames]) for index in range(8)]).to(network.device)
    made = decode(network, encode(network, videos)).clamp(-1, 1)
    return float(-10 * torch.log10(((made - videos) / 2).square().mean()))


def learn(folder: Path, crew: Crew, stage: str) -> AutoencoderKLWan:
    """The autoencoder after its first stage ("pictures") or its second ("clips")."""
    pictures = stage == "pictures"
    footage = Footage(folder, "square")
    network = begin() if pictures else learn(folder, crew, "pictures")
    network.to(crew.device)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=LAYOUT)

    def loss(rng: np.random.Generator, progress: float) -> Tensor:
        size, frames = (16, 1) if pictures else (8, 9) if progress < 0.85 else (4, 17)
        video, weights = (tensor.to(crew.device, memory_format=LAYOUT) for tensor in footage.batch(rng, size // crew.ranks, frames))
        with torch.autocast(crew.device.type, torch.bfloat16):
            latents = encode(network, video)
            made = decode(network, latents + SIGMA * torch.randn_like(latents))
        return likeness_loss(made.float(), video, weights) + 1e-4 * latents.float().square().mean()

    def report() -> str:
        return f"{decibels(network, footage, 1 if pictures else WINDOW):.2f} dB"

    plan = PICTURES if pictures else CLIPS
    train(network, loss, plan, folder / f"autoencoder_{stage}.pt", crew, report)
    return network
