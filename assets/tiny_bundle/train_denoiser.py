"""Teaches the denoiser to make a window of people who talk: flow matching on the drawn clips, conditioned as the product conditions it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from infinitedub.assets.tiny_bundle import mouth_reader
from infinitedub.assets.tiny_bundle.autoencoder import HELD_OUT
from infinitedub.assets.tiny_bundle.clips import ADVANCE, COUNTS, SHAPES, WINDOW, Scene, Spoken, load_corpus, scene
from infinitedub.assets.tiny_bundle.latent_cache import ROLLED, open_latents, open_rolled
from infinitedub.assets.tiny_bundle.trainer import Crew, Plan, finished, train
from infinitedub.stages.engines.infinitetalk.masks import halves, speaker_masks
from infinitedub.stages.model.audio_conditioning import window_indices
from infinitedub.stages.model.dit import EmbeddedConditioning, InfiniteTalkTransformer
from infinitedub.stages.model.shards import SingleDevice
from infinitedub.stages.model.speech_encoder import SAMPLE_RATE, SpeechEncoder
from infinitedub.stages.sampling.schedules import TIMESTEPS, shifted_sigmas

HEAD = 48  # channels of an attention head
WIDTH = 4 * HEAD
SIZES = dict(
    num_attention_heads=WIDTH // HEAD,
    attention_head_dim=HEAD,
    in_channels=36,
    out_channels=16,
    text_dim=32,
    freq_dim=64,
    ffn_dim=448,
    num_layers=5,
    eps=1e-6,
    image_dim=32,
)
AUDIO = dict(audio_window=5, vae_scale=4, audio_blocks=3, audio_channels=64, intermediate_dim=96, context_tokens=8, output_dim=64)
PLANS = {
    "alone": Plan(seed=31, steps=1150, muon=2e-3, adam=1e-3, hold=0.6, average=0.995, on_gpu=3),
    "chained": Plan(seed=32, steps=480, muon=1e-3, adam=5e-4, hold=0.1, average=0.99, on_gpu=3),
}
BATCH = 16
LESSONS = {
    "alone": ("square", "pair", "square", "square", "wide", "square", "pair", "square", "tall", "pair"),
    "chained": ("square", "pair", "pair", "square", "wide", "pair", "square", "pair", "tall", "pair"),
}
"""What the steps learn from, in turn: shapes, and the wide clips of two people apart from those of one."""
SHIFT, STEPS = 3.0, 4  # of the sampler in the preset `tiny`
ASKED = 0.4  # of the noise levels are those at which that sampler asks; the others lie between, as close as it shifts them
DEAF = 0.1  # of the windows hear nothing: what audio guidance compares with
MOUTH = 4.0  # times as heavy as the rest of the picture
NEXT = {"alone": 2.0, "chained": 4.0}  # times as heavy: the first latent behind the given ones, which must fit them
HALVES = 0.25  # of the pairs have no boxes, and are taken to be left and right


@dataclass(frozen=True)
class Kind:
    """One of the windows that films are made of."""

    share: float  # of the lessons alone
    chained: float  # of those in which it goes on from frames of its own making
    window: str  # of the clip, whose latents are the target
    reference: str
    given: int  # latents at the beginning
    footage: bool  # whether clips with a moving camera can be of this kind


KINDS = {
    "portrait": Kind(0.30, 0.20, "first", "opening", 1, footage=False),
    "later": Kind(0.20, 0.22, "second", "opening", 3, footage=False),
    "much later": Kind(0.12, 0.13, "second", "elsewhere", 3, footage=False),
    "dubbed": Kind(0.17, 0.10, "first", "other_first", 1, footage=True),
    "dubbed later": Kind(0.21, 0.35, "second", "other_second", 3, footage=True),
}
"""A film of a portrait refers to the portrait in all its windows. One of footage refers, in each window, to the footage where that window begins;
there the mouth says something else, and the head is where it shall be."""


class Unheard(nn.Module):
    """Stands in for the attention to text and picture tokens while the denoiser learns: no prompt comes with a drawn clip, and the reference
    picture is in the condition channels already."""

    def forward(self, hidden: Tensor, _: Tensor) -> Tensor:
        return torch.zeros_like(hidden)


@dataclass(frozen=True)
class Batch:
    """Windows to learn from. B windows of one shape with P people each."""

    target: Tensor  # [B, 16, 9, H/8, W/8]
    condition: Tensor  # [B, 20, 9, H/8, W/8]: mask and reference channels
    clean: Tensor  # like the target: what is given of it
    known: Tensor  # [B, 1, 9, 1, 1]: 1 where the latents are given
    audio: Tensor  # [B, P, 33, window, blocks, channels]
    masks: Tensor  # [B, 3, H/8, W/8]: of two people and the background; of one person, nothing
    weights: Tensor  # [B, 1, 9, H/8, W/8]

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class Windows:
    """The windows of all clips of a shape with one person, or with two."""

    def __init__(self, folder: Path, lesson: str, ear: "SpeechCheckpoint", rolled: np.ndarray | None = None) -> None:
        self.shape = "wide" if lesson == "pair" else lesson
        self.rolled = rolled
        self.ear = ear
        self.latents = open_latents(folder, self.shape)
        self.mean, self.std = (value.view(16, 1, 1, 1) for value in torch.load(folder / "scale.pt", weights_only=True))
        corpus = load_corpus(folder)
        people = 2 if lesson == "pair" else 1
        drawn = ((index, scene(index, self.shape, corpus)) for index in range(COUNTS[self.shape]))
        self.scenes: dict[int, Scene] = {index: one for index, one in drawn if len(one.spoken) == people}

    def chosen(self, footage: bool, held_out: bool) -> list[int]:
        """The clips to learn from, or those that are held out; with a moving camera too, where it may be `footage`."""
        made = self.scenes if self.rolled is None or held_out else range(ROLLED[self.shape])
        return [index for index, one in self.scenes.items() if (index < HELD_OUT) is held_out and index in made and (footage or one.filmed is None)]

    def batch(self, rng: np.random.Generator, size: int, held_out: bool = False) -> Batch:
        rows, shares = [], [kind.share if self.rolled is None else kind.chained for kind in KINDS.values()]
        for kind in rng.choice(list(KINDS), size, p=shares):
            clips = self.chosen(KINDS[kind].footage, held_out)
            rows.append(self.window(rng, clips[int(rng.integers(len(clips)))], KINDS[kind]))
        return self.stack(rows)

    @staticmethod
    def stack(rows: list[tuple[Tensor, ...]]) -> Batch:
        return Batch(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def window(self, rng: np.random.Generator, index: int, kind: Kind) -> tuple[Tensor, ...]:
        """The parts of a `Batch` for one window of a clip, without their first axis."""
        target = self.normalised(getattr(self.latents, kind.window)[index])
        reference = self.normalised(self.latents.reference(kind.reference, index))
        clean = target.clone()
        if kind.given == 1:
            clean[:, :1] = reference[:, :1]
        elif self.rolled is not None and self.rolled[index].any() and rng.random() < 0.8:
            clean[:, :3] = self.normalised(self.rolled[index])
        elif rng.random() < 0.75:
            clean[:, :3] = self.normalised(self.latents.motion[index])
        known, mask = torch.zeros(1, 9, 1, 1), torch.zeros(4, *target.shape[1:])
        known[:, : kind.given] = 1
        mask[:, 0] = 1
        weights = self.mouths(index) * (1 - known)
        weights[:, kind.given] *= NEXT["alone" if self.rolled is None else "chained"]
        audio, masks = self.told(rng, index, ADVANCE if kind.window == "second" else 0)
        return target, torch.cat([mask, reference]), clean, known, audio, masks, weights

    def normalised(self, values: np.ndarray) -> Tensor:
        return (torch.from_numpy(np.asarray(values, np.float32)) - self.mean) / self.std

    def mouths(self, index: int) -> Tensor:
        """How much each latent matters [1, 1, H/8, W/8]."""
        height, width = SHAPES[self.shape]
        weight = torch.ones(1, 1, height // 8, width // 8)
        for rows, columns in self.scenes[index].mouths:
            weight[..., rows.start // 8 : -(-rows.stop // 8), columns.start // 8 : -(-columns.stop // 8)] = MOUTH
        return weight

    def told(self, rng: np.random.Generator, index: int, start: int) -> tuple[Tensor, Tensor]:
        """What is heard of each person in the window that begins at frame `start` of the clip, and where the people are; in any order."""
        drawn = self.scenes[index]
        audio = torch.stack([self.ear.hear(rng, spoken, start) for spoken in drawn.spoken])
        if len(drawn.spoken) == 1:
            return audio, torch.zeros(0)
        size = SHAPES[self.shape]
        masks = speaker_masks(halves(*size) if rng.random() < HALVES else drawn.boxes, *size, size).float()
        return (audio.flip(0), masks[[1, 0, 2]]) if rng.random() < 0.5 else (audio, masks)


class SpeechCheckpoint:
    """What the trained speech encoder hears in each utterance of the corpus."""

    @torch.no_grad()
    def __init__(self, folder: Path, crew: Crew) -> None:
        listener = mouth_reader.learn(folder, Crew(0, 1, crew.device))
        encoder = SpeechEncoder(listener.encoder, normalise=False)
        corpus = load_corpus(folder)
        self.features = [encoder(utterance.sound).half().cpu() for utterance in corpus]
        self.silent = [rows for rows, utterance in zip(self.features, corpus, strict=True) if not utterance.openness.any()]
        self.silence = encoder(np.zeros(4 * SAMPLE_RATE, np.float32))[50].half().cpu()

    def hear(self, rng: np.random.Generator, spoken: Spoken | None, start: int) -> Tensor:
        """The rows around each frame of a window [33, window, blocks, channels]; who is silent has nothing before the microphone, or a noise."""
        first = start
        if spoken is not None:
            rows, first = self.features[spoken.utterance], spoken.start + start
        elif rng.random() < 0.6:
            return self.silence.float().expand(WINDOW, AUDIO["audio_window"], -1, -1)
        else:
            rows = self.silent[int(rng.integers(len(self.silent)))]
        return rows[window_indices(first, WINDOW, len(rows), AUDIO["audio_window"])].float()


def loss_of(network: InfiniteTalkTransformer, batch: Batch, level: Tensor, heard: Tensor) -> Tensor:
    """The weighted squared error of the flow at the noise `level` [B] in 0..1; those who have not `heard` [B] get zeros."""
    noise = torch.randn_like(batch.target)
    broad = level.view(-1, 1, 1, 1, 1)
    noisy = torch.lerp((1 - broad) * batch.target + broad * noise, batch.clean, batch.known)
    flow = flow_of(network, noisy, batch, level, heard)
    return (batch.weights * (flow - (noise - batch.target)).square()).sum() / (batch.weights.sum() * batch.target.shape[1])


def flow_of(network: InfiniteTalkTransformer, noisy: Tensor, batch: Batch, level: Tensor, heard: Tensor) -> Tensor:
    """What the denoiser answers where nobody hears text. Pairs go one by one, as in the product: their map of who is who knows no batches."""
    shown, nothing = torch.cat([noisy, batch.condition], dim=1), noisy.new_zeros(0)
    if batch.audio.shape[1] == 1:
        tokens = network.audio_proj(batch.audio[:, 0] * heard.view(-1, 1, 1, 1, 1))
        return network(shown, TIMESTEPS * level, EmbeddedConditioning(nothing, tokens, n_speakers=1), None, shards=SingleDevice())
    flows = []
    for row, hears in enumerate(heard.tolist()):
        audio = batch.audio[row] if hears else torch.zeros_like(batch.audio[row, :1])
        tokens = rearrange(network.audio_proj(audio), "p t s c -> 1 t (p s) c")
        told = EmbeddedConditioning(nothing, tokens, n_speakers=len(audio))
        flows.append(network(shown[row : row + 1], TIMESTEPS * level[row : row + 1], told, batch.masks[row], shards=SingleDevice()))
    return torch.cat(flows)


def levels(size: int) -> Tensor:
    """Noise levels to learn at [size]."""
    uniform = torch.rand(size)
    shifted = SHIFT * uniform / (1 + (SHIFT - 1) * uniform)
    asked = shifted_sigmas(STEPS, SHIFT)[: STEPS - 1]  # at the last there is next to no noise
    return torch.where(torch.rand(size) < ASKED, asked[torch.randint(len(asked), (size,))], shifted)


def learn(folder: Path, crew: Crew, stage: str = "chained") -> InfiniteTalkTransformer:
    """The denoiser after its first stage ("alone"), or its second, in which it goes on from frames of its own making ("chained")."""
    chained = stage == "chained"
    network = learn(folder, crew, "alone") if chained else begin().to(crew.device)
    plan, path = PLANS[stage].on(crew.device), folder / f"denoiser_{stage}.pt"
    with untold(network):
        if finished(path, network, plan):
            return network
    ear = SpeechCheckpoint(folder, crew)
    windows = {name: Windows(folder, name, ear) for name in dict.fromkeys(LESSONS[stage])}
    if chained:
        for each in windows.values():
            each.rolled = open_rolled(folder, each.shape)

    def loss(rng: np.random.Generator, progress: float) -> Tensor:
        lesson = LESSONS[stage][round(progress * plan.steps) % len(LESSONS[stage])]
        size = crew.share(BATCH)
        level, heard = levels(size), (torch.rand(size) > DEAF).float()
        return loss_of(network, windows[lesson].batch(rng, size).to(crew.device), level.to(crew.device), heard.to(crew.device))

    @torch.no_grad()
    def report() -> str:
        told = []
        for name in ("square", "pair"):
            torch.manual_seed(0)
            batch = windows[name].batch(np.random.default_rng(0), 2 * HELD_OUT, held_out=True).to(crew.device)
            everybody = torch.ones(len(batch.target), device=crew.device)
            told.append(f"{name} " + " ".join(f"{loss_of(network, batch, at * everybody, everybody):.4f}" for at in (1.0, 0.857, 0.6)))
        return "held out at 1, 0.86, 0.6: " + ", ".join(told)

    with untold(network):
        train(network, loss, plan, path, crew, report)
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


def begin() -> InfiniteTalkTransformer:
    """A network that gives about `noise - reference` at once: the flow to a film in which nothing moves. From there it has only motion to learn.

    The patch embedding hands through the noisy and the reference latents, side by side. Some heads of the first block look from each token to the
    one at the same place in the first frame, where the mask marks the reference, and add it to the stream; the output is the difference.
    """
    torch.manual_seed(PLANS["alone"].seed)
    network = InfiniteTalkTransformer(**SIZES, **AUDIO)
    half = 64  # the 16 channels of a 2 x 2 patch
    patches, spare = torch.arange(half), slice(2 * half, WIDTH)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        network.condition_embedder.time_embedder.linear_2.weight *= 0.1
        network.condition_embedder.time_proj.weight *= 0.1
        for block in network.blocks:
            nn.init.normal_(block.audio_cross_attn.proj.weight, std=0.02)
            nn.init.normal_(block.attn2.to_out[0].weight, std=0.002)
            block.ffn.net[2].weight *= 0.1
            block.attn1.to_out[0].weight *= 0.1
            block.scale_shift_table *= 0.1
            block.scale_shift_table[:, [2, 5]] += 1  # the gates of attention and feed-forward
        network.scale_shift_table *= 0.1

        marked = torch.randn(WIDTH - 2 * half)
        marked /= marked.norm()
        weight = network.patch_embedding.weight.view(WIDTH, -1)  # inputs: 64 of the noisy latents, 16 of the mask, 64 of the reference
        weight *= 0.1
        network.patch_embedding.bias.zero_()
        weight[patches, patches] += 1
        weight[half + patches, 80 + patches] += 1
        weight[spare, 64:80] += 6 / 16 * marked[:, None]

        attention = network.blocks[0].attn1
        columns = HEAD - 2 * (HEAD // 6)  # a head's channels turn with time, rows and columns, pair by pair, the fastest first
        rows = columns - 2 * (HEAD // 6)
        time = rows - 2  # the slowest pair of time; of rows and columns it takes the fastest
        for start in range(0, half, HEAD):
            copied = torch.arange(min(HEAD, half - start))
            for linear in (attention.to_q, attention.to_k):
                linear.weight[start : start + HEAD] *= 0.1
                for pair in (rows, columns):
                    linear.weight[start + pair : start + pair + 2] = 0
                    linear.bias[start + pair] = 7
            attention.to_q.weight[start + time : start + time + 2] = 0
            attention.to_q.bias[start + time] = 6
            attention.to_k.weight[start + time, spare] = marked
            for norm in (attention.norm_q, attention.norm_k):
                norm.weight[start + rows : start + rows + 2] = 2
                norm.weight[start + columns : start + columns + 2] = 2
                norm.weight[start + time] = 2.5
            attention.to_v.weight[start : start + HEAD] = 0
            attention.to_v.weight[start + copied, half + start + copied] = 1
            attention.to_out[0].weight[half + start + copied] = 0
            attention.to_out[0].weight[half + start + copied, start + copied] = 1

        network.proj_out.weight.zero_()
        outputs = (patches % 4) * 16 + patches // 4  # the output has the channels last, the input has them first
        network.proj_out.weight[outputs, patches] = 0.8
        network.proj_out.weight[outputs, half + patches] = -0.8
    return network
