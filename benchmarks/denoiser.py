"""Times a forward pass of the denoiser and the video autoencoder, and compares alternatives within one run.

    python -m benchmarks.denoiser --device cuda --dtype bf16 --peak 790 --backends _native_cudnn _flash_3_hub --compile
    python -m benchmarks.denoiser --layers 2 --heads 4 --head-dim 32 --ffn 512 --codec-width 16 --bucket 64x128 --frames 33    # to try it, on a CPU

Weights are random and are created on the device in the chosen precision: the time of a pass does not depend on their values. Each round calls every
alternative once, so a machine that slows down slows all of them. Compare the ratios. Floating-point operations are those of benchmarks.flops.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import cast

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.attention_dispatch import attention_backend
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.command import parse_frame_size
from benchmarks.flops import IMAGE_TOKENS, TERA, Size, Window, build_denoiser, codec_flops, embed_flops, forward_flops
from infinitedub.stages.model.dit import TEXT_TOKENS, EmbeddedConditioning, InfiniteTalkTransformer
from infinitedub.stages.model.latent_codec import LatentCodec
from infinitedub.stages.model.shards import SingleDevice

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CODEC_WIDTH = 96  # channels of the published autoencoder's first level; `codec_flops` holds for this width only
SINGLE_DEVICE = SingleDevice()


@dataclass(frozen=True, slots=True)
class Case:
    """One alternative."""

    name: str
    work: Callable[[], object]
    flops: int  # of one call; 0 if unknown
    passes: int = 1  # in one call


@dataclass(frozen=True, slots=True)
class Timing:
    """The time and the memory of one alternative, per pass."""

    case: Case
    seconds: float  # median of the rounds
    spread: float  # slowest round divided by fastest round
    peak: int  # largest device memory in bytes, weights included; 0 on CPUs


@contextmanager
def built_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Inside this context, networks are created on `device` with weights of `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def blocks_replaced(network: InfiniteTalkTransformer, blocks: nn.ModuleList) -> Iterator[None]:
    """Inside this context, `network` computes with `blocks`."""
    before = network.blocks
    network.blocks = blocks
    try:
        yield
    finally:
        network.blocks = before


def measure_seconds(work: Callable[[], object], device: str) -> float:
    """The seconds that `work` takes: by CUDA events, or by the clock on CPUs."""
    if device == "cpu":
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / 1000


def time_cases(cases: Sequence[Case], device: str, warmups: int, rounds: int) -> tuple[list[Timing], list[str]]:
    """The timing of each case, and an error line for each case that fails on this machine. Each round calls every case once."""
    usable, missing, peaks = [], [], {}
    for case in cases:
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            for _ in range(max(1, warmups)):
                case.work()
        except (RuntimeError, ValueError, ImportError, NotImplementedError) as error:  # a kernel that is not installed, or not for this device
            missing.append(f"{case.name}: {str(error).splitlines()[0]}")
            continue
        usable.append(case)
        peaks[case.name] = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    times: dict[str, list[float]] = {case.name: [] for case in usable}
    for _ in range(rounds):
        for case in usable:
            times[case.name].append(measure_seconds(case.work, device))
    measured = [(case, times[case.name]) for case in usable]
    return [Timing(case, statistics.median(all_) / case.passes, max(all_) / min(all_), peaks[case.name]) for case, all_ in measured], missing


class Denoiser:
    """The denoiser with random weights and random inputs for one window."""

    def __init__(self, size: Size, window: Window, device: str, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        with built_on(device, dtype):
            self.network = build_denoiser(size).eval()
        for name in self.network.fp32_modules:
            self.network.get_submodule(name).float()
        self.size, self.window, self._device = size, window, device
        height, width = (side // LatentCodec.spatial_factor for side in (window.height, window.width))
        self._latents = torch.randn(1, size.channels_in, window.latent_frames, height, width, device=device)
        self._timestep = torch.full((1,), 500.0, device=device)
        self._masks = torch.zeros(3, height, width, device=device)
        self._masks[0, :, : width // 2] = self._masks[1, :, width // 2 :] = 1
        self._conditioning = {persons: self.embed(persons) for persons in (1, 2)}

    def embed(self, persons: int) -> EmbeddedConditioning:
        """Embeds a random text, a random picture and random speech features of `persons`."""
        size, generator = self.size, torch.Generator(self._device).manual_seed(persons)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=self._device)

        audio = draw(persons, self.window.frames, size.audio_window, size.audio_layers, size.audio_width)
        return self.network.embed(draw(1, TEXT_TOKENS, size.text), draw(1, IMAGE_TOKENS, size.image), audio)

    def forward(self, conditioning: EmbeddedConditioning, context: AbstractContextManager[object] | None = None) -> Tensor:
        """One pass inside `context`, with the batch size of the conditioning."""
        batch = len(conditioning.image_text)
        with context or nullcontext():
            return self.network(
                self._latents.expand(batch, -1, -1, -1, -1), self._timestep.expand(batch), conditioning, self._masks, shards=SINGLE_DEVICE
            )

    def cases(self, persons: int, backends: Sequence[str], compiled: bool) -> list[Case]:
        """The baseline first, then the alternatives."""
        conditioning, other = self._conditioning[persons], 3 - persons
        windows = {number: replace(self.window, persons=number) for number in (1, 2)}
        flops = forward_flops(self.size, windows[persons])
        each_step = flops + embed_flops(self.size, windows[persons])
        cases = [
            Case(f"{persons} person(s), embedded once, native", lambda: self.forward(conditioning), flops),
            Case(f"{other} person(s)", lambda: self.forward(self._conditioning[other]), forward_flops(self.size, windows[other])),
            Case("embedded at every step", lambda: self.forward(self.embed(persons)), each_step),
        ]
        if persons == 1:  # with two persons the speaker map supports a batch of one only
            twice = EmbeddedConditioning(torch.cat([conditioning.image_text] * 2), torch.cat([conditioning.audio] * 2), 1)
            cases += [
                Case("two passes, one after the other", lambda: [self.forward(conditioning) for _ in range(2)], 2 * flops, 2),
                Case("two passes in one batch", lambda: self.forward(twice), 2 * flops, 2),
            ]
        for name in backends:
            cases.append(Case(f"backend {name}", lambda name=name: self.forward(conditioning, attention_backend(name)), flops))  # type: ignore[misc]
        if compiled:
            blocks = nn.ModuleList([cast(nn.Module, torch.compile(block)) for block in self.network.blocks])
            cases.append(Case("compiled blocks", lambda: self.forward(conditioning, blocks_replaced(self.network, blocks)), flops))
        return cases


def codec_cases(window: Window, motion: int, width: int, device: str) -> list[Case]:
    """Encoding the motion frames and a window, and decoding a window; each first in float32, then in bfloat16."""
    video = torch.rand(1, 3, window.frames, window.height, window.width, device=device) * 2 - 1
    rows, columns = (side // LatentCodec.spatial_factor for side in (window.height, window.width))
    latents = torch.randn(1, 16, window.latent_frames, rows, columns, device=device)
    codecs = {}
    for name, dtype in DTYPES.items():
        torch.manual_seed(0)
        with built_on(device, dtype):
            codecs[name] = LatentCodec(AutoencoderKLWan(base_dim=width).eval())
    cases = []
    for frames, encode in dict.fromkeys(((motion, True), (window.frames, True), (window.frames, False))):
        flops = codec_flops(frames, window.height, window.width, encode=encode) if width == CODEC_WIDTH else 0
        for name, codec in codecs.items():
            work = (lambda c=codec, f=frames: c.encode(video[:, :, :f])) if encode else (lambda c=codec: c.decode(latents))  # type: ignore[misc]
            cases.append(Case(f"{'encode' if encode else 'decode'} {frames}, {name}", work, flops))
    return cases


def print_results(title: str, results: Sequence[Timing], missing: Sequence[str], peak: float, group: int) -> None:
    """Prints a table of the results and the missing cases.

    Ratios are relative to the first row of each group of `group` rows, or to the first row of the table if `group` is 0. `peak` is in TFLOP/s.
    """
    table = Table("per pass", "seconds", "ratio", "slowest/fastest", "TFLOP", "TFLOP/s", "of peak", "peak GiB", title=title)
    for number, timing in enumerate(results):
        baseline = results[number - number % group if group else 0]
        work = timing.case.flops / timing.case.passes / TERA
        rate = work / timing.seconds
        share = f"{rate / peak:.0%}" if peak and work else "-"
        arithmetic = (f"{work:.3g}", f"{rate:.3g}", share) if work else ("-", "-", "-")
        memory = f"{timing.peak / 2**30:.1f}" if timing.peak else "-"
        ratio = timing.seconds / baseline.seconds
        table.add_row(timing.case.name, f"{timing.seconds:.4g}", f"{ratio:.3f}", f"{timing.spread:.2f}", *arithmetic, memory)
    console = Console(width=150)
    console.print(table)
    for line in missing:
        console.print(f"not available: {line}", markup=False)


def arguments() -> argparse.Namespace:
    """The parsed command line; the default sizes are those of the 14B release."""
    parser, release = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter), Size()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp32", help="of the denoiser; the autoencoder is timed in both")
    parser.add_argument("--layers", type=int, default=release.layers)
    parser.add_argument("--heads", type=int, default=release.heads)
    parser.add_argument("--head-dim", type=int, default=release.head_dim)
    parser.add_argument("--ffn", type=int, default=release.ffn, help="width of the feed-forward layers")
    parser.add_argument("--codec-width", type=int, default=CODEC_WIDTH, help="channels of the autoencoder's first level; 0 skips the autoencoder")
    parser.add_argument("--bucket", type=parse_frame_size, default=(480, 832), metavar="HxW", help="frame size in pixels, multiples of 16")
    parser.add_argument("--frames", type=int, default=81, help="frames of a window, 4n+1")
    parser.add_argument("--motion", type=int, default=9, help="frames encoded again at the start of a window, 4n+1")
    parser.add_argument("--persons", type=int, choices=(1, 2), default=1, help="persons in the baseline pass")
    parser.add_argument("--backends", nargs="*", default=[], help="attention backends of diffusers, compared with native")
    parser.add_argument("--compile", action="store_true", help="also time the blocks compiled with torch.compile")
    parser.add_argument("--peak", type=float, default=0.0, help="TFLOP/s of the device in --dtype, from its data sheet; gives the column 'of peak'")
    parser.add_argument("--warmups", type=int, default=3, help="untimed calls of each case, at least 1")
    parser.add_argument("--rounds", type=int, default=10, help="timed calls of each case; the median is reported")
    return parser.parse_args()


def main() -> None:
    """Times the denoiser, then the autoencoder."""
    options = arguments()
    size = Size(layers=options.layers, heads=options.heads, head_dim=options.head_dim, ffn=options.ffn)
    window = Window(options.frames, *options.bucket)
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    title = f"{device}, torch {torch.__version__}, {window.height}x{window.width}, {window.frames} frames, {window.tokens} tokens"
    with torch.inference_mode():
        denoiser = Denoiser(size, window, options.device, DTYPES[options.dtype])
        cases = denoiser.cases(options.persons, options.backends, options.compile)
        print_results(f"denoiser, {options.dtype}: {title}", *time_cases(cases, options.device, options.warmups, options.rounds), options.peak, 0)
        del denoiser, cases
        if options.codec_width:
            cases = codec_cases(window, options.motion, options.codec_width, options.device)
            print_results(f"autoencoder: {title}", *time_cases(cases, options.device, options.warmups, options.rounds), 0, len(DTYPES))


if __name__ == "__main__":
    main()
