"""Teaches the video autoencoder: single pictures first, then clips, then windows that go on from one another.

Learning from clips at once gets nowhere in the time there is. So the temporal kernels begin with all their weight on the present frame, where
a picture costs what a two-dimensional network would; the picture autoencoder that comes out is a video autoencoder already, only a poor one.

When a film is made, a window goes on from frames that were decoded, encoded again and decoded again. What changes on that way is seen as a
snap where windows meet, so the last stage teaches that what was decoded once must stay as it is and what follows must fit.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample, WanRMS_norm, patchify, unpatchify
from einops import rearrange
from torch import Tensor, nn

from infinitedub.assets.tiny_bundle.clips import ADVANCE, CLIP, COUNTS, SHAPES, WINDOW, load_corpus, open_frames, scene
from infinitedub.assets.tiny_bundle.trainer import Crew, Plan, finished, short_floats, train

PATCH = 2
CODEC = dict(
    base_dim=16,
    decoder_base_dim=24,
    z_dim=16,
    dim_mult=[1, 2, 4],
    num_res_blocks=1,
    temperal_downsample=[True, True],
    patch_size=PATCH,  # as Wan 2.2 has it: the network's finest level has half the picture's size, which leaves time for more channels
    in_channels=3 * PATCH**2,
    out_channels=3 * PATCH**2,
)
HELD_OUT = 16  # clips of each shape that no network learns from
SIGMA = 0.05  # of the noise on the latents while learning, so that near latents mean near pictures
PLANS = {
    "pictures": Plan(seed=11, steps=900, muon=3e-3, adam=1.5e-3, hold=0.6, on_gpu=3),
    "clips": Plan(seed=12, steps=1500, muon=2e-3, adam=1e-3, hold=0.7, average=0.99, on_gpu=3),
    "seams": Plan(seed=13, steps=550, muon=1.2e-3, adam=6e-4, hold=0.2, average=0.99, on_gpu=3),
}
FIRST, SECOND = slice(0, 17), slice(8, 21)  # frames of the two windows from which `seams` learns: shorter than true ones, with as many in common
CROP = 64  # pixels: what is learnt from at a time
AT_MOUTHS = 0.7  # of the crops
MOUTH = 4  # times as heavy as the rest of the picture
LAYOUT = torch.channels_last_3d  # twice as fast as the default on CPUs that compute in bfloat16


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
    patches = patchify(video, PATCH).contiguous(memory_format=LAYOUT)
    return network.quant_conv(network.encoder(patches))[:, :16]


def decode(network: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """The frames of raw `latents`, not clamped."""
    return unpatchify(network.decoder(network.post_quant_conv(latents.contiguous(memory_format=LAYOUT))), PATCH)


def begin() -> AutoencoderKLWan:
    """A network whose temporal kernels look at the present alone."""
    torch.manual_seed(PLANS["pictures"].seed)
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

    def __init__(self, folder: Path) -> None:
        corpus = load_corpus(folder)
        self.frames = {shape: open_frames(folder, shape) for shape in SHAPES}
        self.mouths = {shape: [scene(index, shape, corpus).mouths for index in range(COUNTS[shape])] for shape in SHAPES}
        areas = np.array([COUNTS[shape] * np.prod(SHAPES[shape]) for shape in SHAPES])
        self.shares = areas / areas.sum()

    def crops(self, rng: np.random.Generator, size: int, frames: int) -> tuple[Tensor, Tensor]:
        """Pieces of pictures: video [B, 3, frames, CROP, CROP] in [-1, 1] and weights [B, 1, frames, CROP, CROP].

        Some are one picture and then grey, as the denoiser is told its reference.
        """
        videos, weights = [], []
        for _ in range(size):
            shape = self.shape(rng)
            index = int(rng.integers(HELD_OUT, COUNTS[shape]))
            start = int(rng.integers(0, CLIP + 1 - frames))
            where = self.corner(rng, shape, index)
            rows, columns = (slice(edge, edge + CROP) for edge in where)
            video = as_video(self.frames[shape][index, start : start + frames, rows, columns])
            weight = self.weight(shape, index)[:, rows, columns].unsqueeze(1).repeat(1, frames, 1, 1)
            if frames > 1 and rng.random() < 0.06:
                video[:, 1:] = 0
                weight[:, 1:] = 0.15
            if rng.random() < 0.5:
                video, weight = video.flip(-1), weight.flip(-1)
            videos.append(video)
            weights.append(weight)
        return torch.stack(videos), torch.stack(weights)

    def shape(self, rng: np.random.Generator) -> str:
        """A shape, by how many pixels the clips of each have."""
        return list(SHAPES)[int(rng.choice(len(SHAPES), p=self.shares))]

    def corner(self, rng: np.random.Generator, shape: str, index: int) -> tuple[int, int]:
        """The upper left corner of a crop, which mostly has a mouth in it."""
        room = [side - CROP for side in SHAPES[shape]]
        if rng.random() > AT_MOUTHS:
            return int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))
        mouths = self.mouths[shape][index]
        box = mouths[int(rng.integers(len(mouths)))]
        at = [(side.start + side.stop - CROP) / 2 + rng.uniform(-14, 14) for side in box]
        return int(np.clip(round(at[0]), 0, room[0])), int(np.clip(round(at[1]), 0, room[1]))

    def weight(self, shape: str, index: int) -> Tensor:
        """[1, height, width]: how much each pixel of a clip matters."""
        weight = torch.ones(1, *SHAPES[shape])
        for rows, columns in self.mouths[shape][index]:
            weight[:, rows, columns] = MOUTH
        return weight

    def held_out(self, frames: int) -> Tensor:
        """The beginnings of clips that nobody learns from."""
        return torch.stack([as_video(self.frames["square"][index, :frames]) for index in range(4)])


def as_video(frames: np.ndarray) -> Tensor:
    """[F, H, W, 3] of bytes as [3, F, H, W] in [-1, 1]."""
    return rearrange(torch.from_numpy(np.asarray(frames, np.float32)), "f h w c -> c f h w") / 127.5 - 1


def likeness_loss(made: Tensor, video: Tensor, weights: Tensor) -> Tensor:
    """Mean absolute difference of colours, and of their edges."""
    wrong = made - video
    down, across = wrong.diff(dim=-2).abs() * weights[..., 1:, :], wrong.diff(dim=-1).abs() * weights[..., 1:]
    return ((weights * wrong.abs()).mean() + 0.5 * (down.mean() + across.mean())) / weights.mean()


@torch.no_grad()
def report_of(network: AutoencoderKLWan, footage: Footage, frames: int) -> str:
    """The likeness (PSNR) of held-out clips behind the autoencoder and, of clips, how much more the picture changes where windows meet."""
    videos = footage.held_out(CLIP).to(network.device)
    with short_floats(network.device):
        made = decode(network, encode(network, videos[:, :, :frames])).float().clamp(-1, 1)
        told = f"{-10 * torch.log10(((made - videos[:, :, :frames]) / 2).square().mean()):.2f} dB"
        if frames == 1:
            return told
        known = encode(network, made[:, :, ADVANCE:])
        following = encode(network, videos[:, :, ADVANCE:])[:, :, known.shape[2] :]
        after = decode(network, torch.cat([known, following], dim=2)).float().clamp(-1, 1)[:, :, WINDOW - ADVANCE :]
    changes = torch.cat([made, after], dim=2).diff(dim=2).abs().mean(dim=(1, 3, 4))
    return f"{told}, seams {(changes[:, WINDOW - 1] / changes.mean(dim=1)).mean():.2f}"


def learn(folder: Path, crew: Crew, stage: str = "seams") -> AutoencoderKLWan:
    """The autoencoder after one of its stages in `PLANS`."""
    before = list(PLANS)[: list(PLANS).index(stage)]
    network = learn(folder, crew, before[-1]) if before else begin()
    network.to(crew.device)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=LAYOUT)
    path = folder / f"autoencoder_{stage}.pt"
    plan = PLANS[stage].on(crew.device)
    if finished(path, network, plan):
        return network
    footage = Footage(folder)
    size, frames = {"pictures": (16, 1), "clips": (8, 9), "seams": (4, SECOND.stop)}[stage]

    def loss(rng: np.random.Generator, _: float) -> Tensor:
        video, weights = (tensor.to(crew.device) for tensor in footage.crops(rng, crew.share(size), frames))
        return seam_loss(network, video, weights) if stage == "seams" else alone_loss(network, video, weights)[0]

    train(network, loss, plan, path, crew, lambda: report_of(network, footage, 1 if stage == "pictures" else WINDOW))
    return network


def alone_loss(network: AutoencoderKLWan, video: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """How unlike the video it is behind the autoencoder, and what it is there."""
    with short_floats(video.device):
        latents = encode(network, video)
        made = decode(network, latents + SIGMA * torch.randn_like(latents)).float()
    return likeness_loss(made, video, weights) + 1e-4 * latents.float().square().mean(), made


def seam_loss(network: AutoencoderKLWan, video: Tensor, weights: Tensor) -> Tensor:
    """The loss of a window, and of one that goes on from its decoded frames: they stay as they are, and what follows them fits."""
    first, motion = video[:, :, FIRST], FIRST.stop - SECOND.start
    wrong, made = alone_loss(network, first, weights[:, :, FIRST])
    known = made.detach().clamp(-1, 1)[:, :, -motion:]
    with short_floats(video.device):
        latents = encode(network, known)
        following = encode(network, video[:, :, SECOND])[:, :, latents.shape[2] :]
        following = following + SIGMA * torch.randn_like(following)
        second = decode(network, torch.cat([latents, following], dim=2)).float()
    kept = likeness_loss(second[:, :, :motion], known, weights[:, :, :motion])
    new = likeness_loss(second[:, :, motion:], video[:, :, FIRST.stop :], weights[:, :, FIRST.stop :])
    seam = (second[:, :, motion:] - made[:, :, -1:]) - (video[:, :, FIRST.stop :] - first[:, :, -1:])
    return wrong + kept + 0.5 * new + 3 * seam.abs().mean()
