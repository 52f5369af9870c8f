"""Computes the floating-point operations of the denoiser and of the video autoencoder for a window, at 2 per multiply-add.

    python -m benchmarks.flops [--frames 81] [--persons 1]

The formulas are pure functions of sizes. `check` compares them with torch's FlopCounterMode on the meta device, where nothing is computed: the
denoiser with two blocks of full width, and the autoencoder. Only matrix products, attention and convolutions count; norms, rotations and
activations are not arithmetic-bound.

S tokens, D width, L blocks, F feed-forward width, T latent frames, P persons.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from diffusers import AutoencoderKLWan
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from infinitedub import conf
from infinitedub.stages.model.dit import PATCH, TEXT_TOKENS, InfiniteTalkTransformer
from infinitedub.stages.model.latent_codec import LatentCodec
from infinitedub.stages.model.shards import SingleDevice

IMAGE_TOKENS = 257
TERA = 1e12
CODEC_RATES = {"encode": (426_039_296, 1_280_731_136), "decode": (687_882_752, 2_161_889_792)}
"""Operations of the convolutions per position of 8x8 pixels, for the first frame and for every further four frames.

Counted by torch for AutoencoderKLWan's default sizes.
"""


@dataclass(frozen=True, slots=True)
class Size:
    """The denoiser's sizes; the defaults are the 14B release's."""

    layers: int = 40
    heads: int = 40
    head_dim: int = 128
    ffn: int = 13824
    text: int = 4096
    image: int = 1280
    frequencies: int = 256
    channels_in: int = 36
    channels_out: int = 16
    audio_tokens: int = 32  # per latent frame and person
    audio_width: int = 768
    audio_hidden: int = 512
    audio_layers: int = 12
    audio_window: int = 5

    @property
    def width(self) -> int:
        return self.heads * self.head_dim


@dataclass(frozen=True, slots=True)
class Window:
    """The size of a window: the frames that the denoiser generates together."""

    frames: int  # 4n+1
    height: int
    width: int
    persons: int = 1

    @property
    def latent_frames(self) -> int:
        return 1 + (self.frames - 1) // LatentCodec.temporal_factor

    @property
    def frame_tokens(self) -> int:
        side = LatentCodec.spatial_factor * PATCH
        return self.height // side * (self.width // side)

    @property
    def tokens(self) -> int:
        return self.latent_frames * self.frame_tokens


def forward_parts(size: Size, window: Window) -> dict[str, int]:
    """Operations of one forward pass, without the embedding of its conditioning, by part.

    self q,k,v,o = L 8 S D^2; self-attention = L 4 S^2 D; feed-forward = L 4 S D F;
    text and image = L (4 S D^2 + 4 (512+257) D^2 + 4 S (512+257) D);
    audio = L (4 S D^2 + 4 T 32P 768 D + 4 S 32P D);
    speaker map, for two persons only = L 4 S (S/T) D, attention to the first latent frame;
    ends = patches 2 S 36*4 D, head 2 S D 16*4, time 2 (256 D + D^2 + 6 D^2).
    """
    s, d, layers = window.tokens, size.width, size.layers
    context, audio = TEXT_TOKENS + IMAGE_TOKENS, size.audio_tokens * window.persons
    area = PATCH * PATCH
    return {
        "self q,k,v,o": layers * 8 * s * d * d,
        "self-attention": layers * 4 * s * s * d,
        "feed-forward": layers * 4 * s * d * size.ffn,
        "text and image": layers * (4 * s * d * d + 4 * context * d * d + 4 * s * context * d),
        "audio": layers * (4 * s * d * d + 4 * window.latent_frames * audio * size.audio_width * d + 4 * s * audio * d),
        "speaker map": layers * 4 * s * window.frame_tokens * d if window.persons == 2 else 0,
        "ends": 2 * s * size.channels_in * area * d + 2 * s * d * size.channels_out * area + 2 * (size.frequencies * d + 7 * d * d),
    }


def forward_flops(size: Size, window: Window) -> int:
    """Operations of one forward pass, without the embedding of its conditioning."""
    return sum(forward_parts(size, window).values())


def embed_flops(size: Size, window: Window) -> int:
    """Operations of embedding the conditioning of a pass, once per window and pass.

    text 2*512 (4096 D + D^2); image 2*257 (1280^2 + 1280 D); audio, for each person, 2 (rows*12*768 * 512, with 5 rows for the first latent frame
    and 8 for the others, + T (512^2 + 512 * 32*768)).
    """
    d, row = size.width, size.audio_layers * size.audio_width
    later = 2 * (size.audio_window // 2 + 1) + LatentCodec.temporal_factor - 2
    rows = size.audio_window + (window.latent_frames - 1) * later
    text = 2 * TEXT_TOKENS * (size.text * d + d * d)
    image = 2 * IMAGE_TOKENS * (size.image * size.image + size.image * d)
    hidden = size.audio_hidden * size.audio_hidden + size.audio_hidden * size.audio_tokens * size.audio_width
    return text + image + window.persons * 2 * (rows * row * size.audio_hidden + window.latent_frames * hidden)


def codec_flops(frames: int, height: int, width: int, *, encode: bool) -> int:
    """Operations of encoding `frames` pixel frames of height x width, or of decoding the latents of as many frames.

    N (A + B n) + 4 * 384 N^2 (1 + n) with N = H/8 W/8 positions and n = (frames - 1)/4: convolutions for the first frame and for every further four,
    and one attention layer of 384 channels within each latent frame.
    """
    n, positions = (frames - 1) // LatentCodec.temporal_factor, height * width // LatentCodec.spatial_factor**2
    first, four_more = CODEC_RATES["encode" if encode else "decode"]
    return positions * (first + four_more * n) + 4 * 384 * positions * positions * (1 + n)


def build_denoiser(size: Size) -> InfiniteTalkTransformer:
    """The denoiser with the sizes of `size`, on torch's default device and in its default dtype."""
    return InfiniteTalkTransformer(
        num_layers=size.layers,
        num_attention_heads=size.heads,
        attention_head_dim=size.head_dim,
        ffn_dim=size.ffn,
        text_dim=size.text,
        image_dim=size.image,
        freq_dim=size.frequencies,
        context_tokens=size.audio_tokens,
        output_dim=size.audio_width,
        intermediate_dim=size.audio_hidden,
        audio_blocks=size.audio_layers,
        audio_window=size.audio_window,
    )


def count_denoiser(size: Size, window: Window) -> tuple[int, int]:
    """The operations that torch counts for embedding the conditioning and for one forward pass."""
    height, width = (side // LatentCodec.spatial_factor for side in (window.height, window.width))
    with torch.device("meta"), torch.no_grad():
        network = build_denoiser(size)
        with FlopCounterMode(display=False) as embedding:
            conditioning = network.embed(
                torch.empty(1, TEXT_TOKENS, size.text),
                torch.empty(1, IMAGE_TOKENS, size.image),
                torch.empty(window.persons, window.frames, size.audio_window, size.audio_layers, 768),
            )
        latents = torch.empty(1, size.channels_in, window.latent_frames, height, width)
        with FlopCounterMode(display=False) as forward:
            network(latents, torch.empty(1), conditioning, torch.empty(3, height, width), shards=SingleDevice())
    return embedding.get_total_flops(), forward.get_total_flops()


def count_codec(frames: int, height: int, width: int, *, encode: bool) -> int:
    """The operations that torch counts for the autoencoder."""
    latents = 1 + (frames - 1) // LatentCodec.temporal_factor, height // LatentCodec.spatial_factor, width // LatentCodec.spatial_factor
    with torch.device("meta"), torch.no_grad():
        vae = AutoencoderKLWan()
        with FlopCounterMode(display=False) as counter:
            if encode:
                vae.encode(torch.empty(1, 3, frames, height, width))
            else:
                vae.decode(torch.empty(1, 16, *latents))
    return counter.get_total_flops()


def buckets() -> list[tuple[str, int, int]]:
    """The class, height and width of each frame size of the release."""
    sizes = []
    for name in ("480", "720"):
        config = yaml.safe_load((Path(conf.__file__).parent / "generate" / "model" / f"infinitetalk_{name}.yaml").read_text())
        sizes += [(name, height, width) for height, width in config["buckets"].values()]
    return sizes


def check() -> list[tuple[str, int, int]]:
    """Name, formula and torch's count of the denoiser with two blocks of full width and of the autoencoder."""
    size, rows = Size(layers=2), []
    for persons in (1, 2):
        window = Window(81, 480, 832, persons)
        embedding, forward = count_denoiser(size, window)
        rows += [
            (f"embedding, {persons} person(s)", embed_flops(size, window), embedding),
            (f"forward, {persons} person(s), 2 blocks", forward_flops(size, window), forward),
        ]
    for frames, encode in ((9, True), (81, True), (81, False)):
        name = f"autoencoder, {'encoding' if encode else 'decoding'} {frames} frames"
        rows.append((name, codec_flops(frames, 480, 832, encode=encode), count_codec(frames, 480, 832, encode=encode)))
    return rows


def main() -> None:
    """Prints the check and the table; exits with 1 if a formula and a count differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=81, help="frames of a window, 4n+1")
    parser.add_argument("--persons", type=int, choices=(1, 2), default=1)
    parser.add_argument("--motion", type=int, default=9, help="frames encoded again at the start of a window, 4n+1")
    options = parser.parse_args()
    console, rows = Console(width=150), check()
    checked = Table("480x832, 81 frames", "formula", "torch counts", "equal")
    for name, formula, counted in rows:
        checked.add_row(name, f"{formula:,}", f"{counted:,}", "yes" if formula == counted else "NO")
    console.print(checked)

    size, table = Size(), Table(title=f"TFLOP, {options.frames} frames, {options.persons} person(s)")
    columns = [name for name in forward_parts(size, Window(81, 480, 832)) if name != "ends"]
    for column in ("class", "size", "tokens", "forward", *columns, "embedding", f"encode {options.motion}", "encode all", "decode all"):
        table.add_column(column, justify="right")
    for name, height, width in buckets():
        window = Window(options.frames, height, width, options.persons)
        parts = forward_parts(size, window)
        codec = [codec_flops(options.motion, height, width, encode=True)] + [
            codec_flops(options.frames, height, width, encode=e) for e in (True, False)
        ]
        values = [forward_flops(size, window), *(parts[column] for column in columns), embed_flops(size, window), *codec]
        table.add_row(name, f"{height}x{width}", str(window.tokens), *(f"{value / TERA:.1f}" for value in values))
    console.print(table)
    sys.exit(any(formula != counted for _, formula, counted in rows))


if __name__ == "__main__":
    main()
