"""How long a forward pass of the denoiser takes, and the video autoencoder: alternatives against each other, in one run.

    python -m benchmarks.denoiser --device cuda --dtype bf16 --peak 790 --backends _native_cudnn _flash_3_hub --compile
    python -m benchmarks.denoiser --layers 2 --heads 4 --head-dim 32 --ffn 512 --codec-width 16 --bucket 64x128 --frames 33    # to try it, on a CPU

Weights are random, made on the device in the precision asked for: how long a pass takes does not depend on them. Alternatives take turns, round after
round, so that a machine that slows down slows them all; what counts are the ratios. Floating-point operations are those of benchmarks.flops.
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

from benchmarks.command import sides
from benchmarks.flops import IMAGE_TOKENS, TERA, Size, Window, build_denoiser, codec_flops, embed_flops, forward_flops
from infinitedub.stages.model.dit import TEXT_TOKENS, EmbeddedConditioning, InfiniteTalkTransformer
from infinitedub.stages.model.latent_codec import LatentCodec
from infinitedub.stages.model.shards import SingleDevice

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CODEC_WIDTH = 96  # channels of the published autoencoder's first level: what `codec_flops` holds for
ALONE = SingleDevice()


@dataclass(frozen=True, slots=True)
class Case:
    """One alternative."""

    name: str
    work: Callable[[], object]
    flops: int  # of one call; 0 where unknown
    passes: int = 1  # in one call


@dataclass(frozen=True, slots=True)
class Timing:
    """What one alternative took per pass."""

    case: Case
    seconds: float  # median of the rounds
    spread: float  # slowest over fastest round
    peak: int  # bytes of the device's memory at most, weights included; 0 on CPUs


@contextmanager
def built_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Within it, networks are made on `device` with weights of `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def blocks_replaced(network: InfiniteTalkTransformer, blocks: nn.ModuleList) -> Iterator[None]:
    """Within it, `network` computes with `blocks`."""
    before = network.blocks
    network.blocks = blocks
    try:
        yield
    finally:
        network.blocks = before


def stopwatch(work: Callable[[], object], device: str) -> float:
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


def race(cases: Sequence[Case], device: str, warmups: int, rounds: int) -> tuple[list[Timing], list[str]]:
    """What each case took, and why those are missing that this machine cannot do. Each round calls every case once."""
    able, missing, peaks = [], [], {}
    for case in cases:
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            for _ in range(max(1, warmups)):
                case.work()
        except (RuntimeError, ValueError, ImportError, NotImplementedError) as error:  # a kernel that is not installed, or not for this device
            missing.append(f"{case.name}: {str(error).splitlines()[0]}")
            continue
        able.append(case)
        peaks[case.name] = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    times: dict[str, list[float]] = {case.name: [] for case in able}
    for _ in range(rounds):
        for case in able:
            times[case.name].append(stopwatch(case.work, device))
    taken = [(case, times[case.name]) for case in able]
    return [Timing(case, statistics.median(all_) / case.passes, max(all_) / min(all_), peaks[case.name]) for case, all_ in taken], missing


class Denoiser:
    """The denoiser with random weights, and everything that it is given for a window."""

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
        """Embeds a text, a picture and the speech of `persons`."""
        size, given = self.size, torch.Generator(self._device).manual_seed(persons)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=given, device=self._device)

        audio = draw(persons, self.window.frames, size.audio_window, size.audio_layers, size.audio_width)
        return self.network.embed(draw(1, TEXT_TOKENS, size.text), draw(1, IMAGE_TOKENS, size.image), audio)

    def forward(self, conditioning: EmbeddedConditioning, within: AbstractContextManager[object] | None = None) -> Tensor:
        """One pass over as many videos as the conditioning has."""
        batch = len(conditioning.image_text)
        with within or nullcontext():
            return self.network(self._latents.expand(batch, -1, -1, -1, -1), self._timestep.expand(batch), conditioning, self._masks, shards=ALONE)

    def cases(self, persons: int, backends: Sequence[str], compiled: bool) -> list[Case]:
        """The plain pass first, then what it is compared with."""
        conditioning, other = self._conditioning[persons], 3 - persons
        windows = {number: replace(self.window, persons=number) for number in (1, 2)}
        flops = forward_flops(self.size, windows[persons])
        each_step = flops + embed_flops(self.size, windows[persons])
        found = [
            Case(f"{persons} person(s), embedded once, native", lambda: self.forward(conditioning), flops),
            Case(f"{other} person(s)", lambda: self.forward(self._conditioning[other]), forward_flops(self.size, windows[other])),
            Case("embedded at every step", lambda: self.forward(self.embed(persons)), each_step),
        ]
        if persons == 1:  # the map of two persons is made for one video at a time
            twice = EmbeddedConditioning(torch.cat([conditioning.image_text] * 2), torch.cat([conditioning.audio] * 2), 1)
            found += [
                Case("two passes, one after the other", lambda: [self.forward(conditioning) for _ in range(2)], 2 * flops, 2),
                Case("two passes in one batch", lambda: self.forward(twice), 2 * flops, 2),
            ]
        for name in backends:
            found.append(Case(f"backend {name}", lambda name=name: self.forward(conditioning, attention_backend(name)), flops))  # type: ignore[misc]
        if compiled:
            blocks = nn.ModuleList([cast(nn.Module, torch.compile(block)) for block in self.network.blocks])
            found.append(Case("compiled blocks", lambda: self.forward(conditioning, blocks_replaced(self.network, blocks)), flops))
        return found


def codec_cases(window: Window, motion: int, width: int, device: str) -> list[Case]:
    """Encoding the motion frames and a window, and decoding a window; each in float32 first, then in bfloat16."""
    video = torch.rand(1, 3, window.frames, window.height, window.width, device=device) * 2 - 1
    sides = (side // LatentCodec.spatial_factor for side in (window.height, window.width))
    latents = torch.randn(1, 16, window.latent_frames, *sides, device=device)
    codecs = {}
    for name, dtype in DTYPES.items():
        torch.manual_seed(0)
        with built_on(device, dtype):
            codecs[name] = LatentCodec(AutoencoderKLWan(base_dim=width).eval())
    found = []
    for frames, encode in ((motion, True), (window.frames, True), (window.frames, False)):
        flops = codec_flops(frames, window.height, window.width, encode=encode) if width == CODEC_WIDTH else 0
        for name, codec in codecs.items():
            work = (lambda c=codec, f=frames: c.encode(video[:, :, :f])) if encode else (lambda c=codec: c.decode(latents))  # type: ignore[misc]
            found.append(Case(f"{'encode' if encode else 'decode'} {frames}, {name}", work, flops))
    return found


def print_results(title: str, results: Sequence[Timing], missing: Sequence[str], peak: float, baselines: int) -> None:
    """Prints a table; every `baselines` rows the first is what the others are compared with, in all of them if 0."""
    table = Table("per pass", "seconds", "ratio", "slowest/fastest", "TFLOP", "TFLOP/s", "of peak", "GiB at most", title=title)
    for number, took in enumerate(results):
        first = results[number - number % baselines if baselines else 0]
        work = took.case.flops / took.case.passes / TERA
        rate = work / took.seconds
        share = f"{rate / peak:.0%}" if peak and work else "-"
        shown = (f"{work:.3g}", f"{rate:.3g}", share) if work else ("-", "-", "-")
        memory = f"{took.peak / 2**30:.1f}" if took.peak else "-"
        table.add_row(took.case.name, f"{took.seconds:.4g}", f"{took.seconds / first.seconds:.3f}", f"{took.spread:.2f}", *shown, memory)
    console = Console(width=150)
    console.print(table)
    for line in missing:
        console.print(f"not here: {line}", markup=False)


def arguments() -> argparse.Namespace:
    """The command line; the defaults are the 14B release's sizes."""
    parser, real = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter), Size()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp32", help="of the denoiser; the autoencoder is timed in both")
    parser.add_argument("--layers", type=int, default=real.layers)
    parser.add_argument("--heads", type=int, default=real.heads)
    parser.add_argument("--head-dim", type=int, default=real.head_dim)
    parser.add_argument("--ffn", type=int, default=real.ffn, help="width of the feed-forward layers")
    parser.add_argument("--codec-width", type=int, default=CODEC_WIDTH, help="channels of the autoencoder's first level; 0 leaves it out")
    parser.add_argument("--bucket", type=sides, default=(480, 832), metavar="HxW", help="frame size in pixels, multiples of 16")
    parser.add_argument("--frames", type=int, default=81, help="of a window, 4n+1")
    parser.add_argument("--motion", type=int, default=9, help="frames encoded again at the start of a window, 4n+1")
    parser.add_argument("--persons", type=int, choices=(1, 2), default=1, help="in the pass that all others are compared with")
    parser.add_argument("--backends", nargs="*", default=[], help="attention backends of diffusers, compared with native")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile for each block")
    parser.add_argument("--peak", type=float, default=0.0, help="TFLOP/s of the device in --dtype, from its data sheet, for the share of it")
    parser.add_argument("--warmups", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10, help="of which the median counts")
    return parser.parse_args()


def main() -> None:
    """Times the denoiser, then the autoencoder."""
    options = arguments()
    size = Size(layers=options.layers, heads=options.heads, head_dim=options.head_dim, ffn=options.ffn)
    window = Window(options.frames, *options.bucket)
    what = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    title = f"{what}, torch {torch.__version__}, {window.height}x{window.width}, {window.frames} frames, {window.tokens} tokens"
    with torch.inference_mode():
        denoiser = Denoiser(size, window, options.device, DTYPES[options.dtype])
        cases = denoiser.cases(options.persons, options.backends, options.compile)
        print_results(f"denoiser, {options.dtype}: {title}", *race(cases, options.device, options.warmups, options.rounds), options.peak, 0)
        del denoiser, cases
        if options.codec_width:
            cases = codec_cases(window, options.motion, options.codec_width, options.device)
            print_results(f"autoencoder: {title}", *race(cases, options.device, options.warmups, options.rounds), 0, len(DTYPES))


if __name__ == "__main__":
    main()
