"""Teaches the denoiser to make a window of a talking person: flow matching on the drawn clips, conditioned as the product conditions it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from assets.tiny_bundle import hearing
from assets.tiny_bundle.autoencoder import HELD_OUT
from assets.tiny_bundle.clips import ADVANCE, COUNTS, SHAPES, WINDOW, load_corpus, scene
from assets.tiny_bundle.faces import HEIGHT, mouth_box
from assets.tiny_bundle.latents import ROLLED, open_latents, open_rolled
from assets.tiny_bundle.trainer import Crew, Plan, train
from stages.generate.sampling.schedules import TIMESTEPS
from stages.model.audio import window_indices
from stages.model.dit import InfiniteTalkTransformer, Told
from stages.model.shards import Alone
from stages.model.speech import SpeechEncoder

HEAD = 32  # channels of an attention head
SIZES = dict(
    num_attention_heads=4,
    attention_head_dim=HEAD,
    in_channels=36,
    out_channels=16,
    text_dim=32,
    freq_dim=64,
    ffn_dim=384,
    num_layers=5,
    eps=1e-6,
    image_dim=32,
)
AUDIO = dict(audio_window=5, vae_scale=4, audio_blocks=3, audio_channels=64, intermediate_dim=96, context_tokens=8, output_dim=64)
ALONE = Plan(seed=31, steps=1500, muon=2e-3, adam=1e-3, hold=0.5, average=0.995)
CHAINED = Plan(seed=32, steps=250, muon=6e-4, adam=3e-4, hold=0.3, average=0.99)
BATCH = 16
KINDS = {"first": 0.4, "second": 0.45, "middle": 0.15}
"""Which windows are learnt from: a clip's first, which begins with its reference; its second, which goes on from motion frames; and its first once
more as one that goes on from motion frames with a reference from elsewhere."""
SHIFT = 3.0
DEAF = 0.1  # of the windows hear nothing: what audio guidance compares with


class Unheard(nn.Module):
    """Stands in for the attention to text and picture tokens while the denoiser learns: no prompt comes with a drawn clip, and the reference
    picture is in the condition channels already."""

    def forward(self, hidden: Tensor, _: Tensor) -> Tensor:
        return torch.zeros_like(hidden)


@dataclass(frozen=True)
class Batch:
    """Windows to learn from. B windows of one shape."""

    target: Tensor  # [B, 16, 9, H/8, W/8]
    condition: Tensor  # [B, 20, 9, H/8, W/8]: mask and reference channels
    clean: Tensor  # like the target: the motion latents where the window has some
    known: Tensor  # [B, 1, 9, 1, 1]: 1 where the latents are given
    audio: Tensor  # [B, 33, window, blocks, channels]
    weights: Tensor  # [B, 1, 9, H/8, W/8]

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class Windows:
    """The windows of all clips of a shape."""

    def __init__(self, folder: Path, shape: str, features: list[Tensor], rolled: np.ndarray | None = None) -> None:
        corpus = load_corpus(folder)
        self.latents = open_latents(folder, shape)
        self.rolled = rolled
        self.mean, self.std = (value.view(16, 1, 1, 1) for value in torch.load(folder / "scale.pt", weights_only=True))
        self.scenes = [scene(index, shape, corpus)[0] for index in range(COUNTS[shape])]
        self.features = features
        self.weights = []
        for drawn in self.scenes:
            rows, columns = mouth_box(drawn.portrait)
            weight = torch.ones(1, 1, HEIGHT // 8, SHAPES[shape] // 8)
            weight[..., rows.start // 8 : -(-rows.stop // 8), columns.start // 8 : -(-columns.stop // 8)] = 4
            self.weights.append(weight)

    def batch(self, rng: np.random.Generator, size: int, chosen: range) -> Batch:
        """First windows, whose first frame is the reference, and later ones, which go on from three motion latents; of the clips `chosen`."""
        kinds = rng.choice(list(KINDS), size, p=list(KINDS.values()))
        return self.stack([self.window(rng, chosen[int(rng.integers(len(chosen)))], kind) for kind in kinds])

    @staticmethod
    def stack(rows: list[tuple[Tensor, ...]]) -> Batch:
        return Batch(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def window(self, rng: np.random.Generator, index: int, kind: str) -> tuple[Tensor, ...]:
        """The parts of a `Batch` for one window of a clip, without their first axis."""
        target = self.normalised(self.latents.second if kind == "second" else self.latents.first, index)
        elsewhere = kind == "middle" or (kind == "second" and rng.random() < 0.25)
        reference = self.normalised(self.latents.elsewhere if elsewhere else self.latents.opening, index)
        clean = target.clone()
        if kind == "second" and rng.random() < 0.75:
            made = self.latents.motion if self.rolled is None or not self.rolled[index].any() else self.rolled
            clean[:, :3] = self.normalised(made, index)
        known, mask = torch.zeros(1, 9, 1, 1), torch.zeros(4, *target.shape[1:])
        known[:, : 1 if kind == "first" else 3] = 1
        mask[:, 0] = 1
        condition = torch.cat([mask, reference])
        weights = self.weights[index] * (1 - known)
        weights[:, 1 if kind == "first" else 3] *= 2  # what comes next to the given frames must fit them
        return target, condition, clean, known, self.audio(index, kind == "second"), weights

    def normalised(self, values: np.ndarray, index: int) -> Tensor:
        return (torch.from_numpy(np.asarray(values[index], np.float32)) - self.mean) / self.std

    def audio(self, index: int, second: bool) -> Tensor:
        drawn = self.scenes[index]
        features = self.features[drawn.utterance]
        return features[window_indices(drawn.start + second * ADVANCE, WINDOW, len(features), AUDIO["audio_window"])].float()


def loss_of(network: InfiniteTalkTransformer, batch: Batch, timestep: Tensor, heard: Tensor) -> Tensor:
    """The weighted squared error of the flow at `timestep` [B] in 0..1; those who have not `heard` [B] get silence's zeros."""
    noise = torch.randn_like(batch.target)
    level = timestep.view(-1, 1, 1, 1, 1)
    noisy = torch.lerp((1 - level) * batch.target + level * noise, batch.clean, batch.known)
    flow = flow_of(network, noisy, batch.condition, batch.audio * heard.view(-1, 1, 1, 1, 1), timestep)
    return (batch.weights * (flow - (noise - batch.target)).square()).sum() / (batch.weights.sum() * batch.target.shape[1])


def flow_of(network: InfiniteTalkTransformer, noisy: Tensor, condition: Tensor, audio: Tensor, timestep: Tensor) -> Tensor:
    """What the denoiser answers where nobody hears text."""
    tokens = network.audio_proj(audio)
    told = Told(context=tokens.new_zeros(0), audio=tokens, persons=1)
    return network(torch.cat([noisy, condition], dim=1), TIMESTEPS * timestep, told, None, shards=Alone())


def learn(folder: Path, crew: Crew, stage: str) -> InfiniteTalkTransformer:
    """The denoiser after its first stage ("alone"), or its second, in which it goes on from frames of its own making ("chained")."""
    chained = stage == "chained"
    features = features_of_corpus(folder, crew)
    windows = {shape: Windows(folder, shape, features, open_rolled(folder, shape) if chained else None) for shape in SHAPES}
    network = learn(folder, crew, "alone") if chained else begin().to(crew.device)
    plan = CHAINED if chained else ALONE

    def loss(rng: np.random.Generator, progress: float) -> Tensor:
        shape = "wide" if round(progress * plan.steps) % 6 == 5 else "square"
        batch = windows[shape].batch(rng, BATCH // crew.ranks, range(HELD_OUT, (ROLLED if chained else COUNTS)[shape])).to(crew.device)
        uniform = torch.rand(len(batch.target), device=crew.device)
        heard = (torch.rand(len(batch.target), device=crew.device) > DEAF).float()
        return loss_of(network, batch, SHIFT * uniform / (1 + (SHIFT - 1) * uniform), heard)

    @torch.no_grad()
    def report() -> str:
        torch.manual_seed(0)
        batch = windows["square"].batch(np.random.default_rng(0), 2 * HELD_OUT, range(HELD_OUT)).to(crew.device)
        everybody = torch.ones(len(batch.target), device=crew.device)
        return "held out at 1, 0.8, 0.5: " + " ".join(f"{loss_of(network, batch, at * everybody, everybody):.4f}" for at in (1.0, 0.8, 0.5))

    with untold(network):
        train(network, loss, plan, folder / f"denoiser_{stage}.pt", crew, report)
    return network


@contextmanager
def untold(network: InfiniteTalkTransformer) -> Iterator[None]:
    """Within this context the network attends to neither text nor picture tokens."""
    kept = [block.attn2 for block in network.blocks]
    for block in network.blocks:
        block.attn2 = Unheard()
    try:
        yield
    finally:
        for block, attention in zip(network.blocks, kept, strict=True):
            block.attn2 = attention


@torch.no_grad()
def features_of_corpus(folder: Path, crew: Crew) -> list[Tensor]:
    """What the trained speech encoder hears in each utterance of the corpus."""
    listener = hearing.learn(folder, Crew(0, 1, crew.device))
    encoder = SpeechEncoder(listener.encoder, normalise=False)
    return [encoder(utterance.sound).half().cpu() for utterance in load_corpus(folder)]


def begin() -> InfiniteTalkTransformer:
    """A network that gives `noise - reference` at once: the flow to a film in which nothing moves. From there it has only motion to learn.

    The patch embedding hands through the noisy and the reference latents, side by side. Two heads of the first block look from each token to the one
    at the same place in the first frame, where the mask marks the reference, and add it to the stream; the output is the difference.
    """
    torch.manual_seed(ALONE.seed)
    network = InfiniteTalkTransformer(**SIZES, **AUDIO)
    half, head = 64, HEAD
    patches = torch.arange(half)  # the 16 channels of a 2 x 2 patch
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for block in network.blocks:
            nn.init.normal_(block.audio_cross_attn.proj.weight, std=0.02)
            nn.init.normal_(block.attn2.to_out[0].weight, std=0.002)
            block.ffn.net[2].weight *= 0.3
            block.attn1.to_out[0].weight *= 0.3
            block.scale_shift_table[:, [0, 1, 3, 4]] *= 0.3
        network.scale_shift_table *= 0.3

        marked = torch.randn(half)
        marked /= marked.norm()
        weight = network.patch_embedding.weight.view(2 * half, -1)  # inputs: 64 of the noisy latents, 16 of the mask, 64 of the reference
        weight *= 0.1
        network.patch_embedding.bias.zero_()
        weight[patches, patches] += 1
        weight[half + patches, 80 + patches] += 1
        weight[half:, 64:80] += 6 / 16 * marked[:, None]

        attention, table = network.blocks[0].attn1, network.blocks[0].scale_shift_table
        time, rows, columns = 10, 12, 22  # of a head's 32 channels: the slowest pair of time, the fastest pairs of rows and columns
        for start in (0, head):
            for linear in (attention.to_q, attention.to_k):
                linear.weight[start : start + head] *= 0.1
                for pair in (rows, columns):
                    linear.weight[start + pair : start + pair + 2] = 0
                    linear.bias[start + pair] = 7
            attention.to_q.weight[start + time : start + time + 2] = 0
            attention.to_q.bias[start + time] = 6
            attention.to_k.weight[start + time, half:] = marked
            for norm in (attention.norm_q, attention.norm_k):
                norm.weight[start + rows : start + rows + 2] = 2
                norm.weight[start + columns : start + columns + 2] = 2
                norm.weight[start + time] = 2.5
            attention.to_v.weight[start : start + head] = 0
            attention.to_v.weight[start : start + head, half + start : half + start + head] = torch.eye(head)
            attention.to_out[0].weight[half + start : half + start + head] *= 0.1
            attention.to_out[0].weight[half + start : half + start + head, start : start + head] = torch.eye(head)
        table[0, 2, half:] = 1
        table[0, 2, :half] = 0

        network.proj_out.weight.zero_()
        outputs = (patches % 4) * 16 + patches // 4  # the output has the channels last, the input has them first
        network.proj_out.weight[outputs, patches] = 0.8
        network.proj_out.weight[outputs, half + patches] = -0.8
    return network
