"""Makes one window with random weights of true size on one GPU, through the product's own stages, and compares peak memory with the computed one.

    python -m benchmarks.first_film                # one CUDA card of 80 GB; no weights are needed
    python -m benchmarks.first_film --low-memory   # as the product does on smaller cards
    python -m benchmarks.first_film --toy          # the bundled model's sizes, on a CPU: rehearses the script

condition and generate run as in `preset=infinitetalk_480`, with 2 steps: three passes, bf16, 640x640, 81 frames. The script exits with 1 if the
window holds NaN, is not the same to the bit when it is made again, or takes more memory than computed. Each finding is printed as it comes.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import AutoencoderKLWan
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from infinitedub.launch.compose import checked, compose
from infinitedub.pipeline.config import RunConfig
from infinitedub.pipeline.run.stage_registry import stage_specs
from infinitedub.pipeline.state.stage_files import StageFiles
from infinitedub.pipeline.storage.storage import Storage
from infinitedub.stages.contract import Rank
from infinitedub.stages.engines.infinitetalk.memory import device_bytes
from infinitedub.stages.model.dit import InfiniteTalkTransformer
from infinitedub.stages.model.image_encoder import ImageEncoder
from infinitedub.stages.model.latent_codec import LatentCodec
from infinitedub.stages.model.offload import offload
from infinitedub.stages.model.text_encoder import TextEncoder
from infinitedub.stages.model.weights.bundle import Bundle, open_bundle, open_tokenizer
from infinitedub.stages.model.weights.load import TensorSource, build_empty, load_weights
from infinitedub.stages.model.weights.paths import resolve_weights
from infinitedub.stages.records import Artifact, Chunk, Clip, Conditions, Prompt, Seed, Segment, Source, Span, Speech, Voice, Window

GIB = 2**30
SIDE = 640
FRAMES = 81
AUDIO_LAYERS, AUDIO_CHANNELS = 12, 768  # of wav2vec2-base


class RandomCheckpoint:
    """Weights of a network that exists on the meta device only: made when they are read, on the device, and the same each time."""

    location = "random weights"

    def __init__(self, network: nn.Module, device: str) -> None:
        saved = network.state_dict()
        self._shapes = {name: value.shape for name, value in saved.items()}
        self._device = device

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def shape(self, name: str) -> torch.Size:
        return self._shapes[name]

    def dtype(self, name: str) -> str:
        return "bfloat16"

    def read(self, name: str) -> Tensor:
        """Scaled so that activations stay finite through forty blocks: matrices by their inputs, gains 1, offsets 0."""
        shape = self._shapes[name]
        if len(shape) < 2:
            return torch.full(shape, float(name.endswith(("weight", "gamma"))), dtype=torch.bfloat16, device=self._device)
        generator = torch.Generator(self._device).manual_seed(sum(name.encode()))
        values = torch.empty(shape, dtype=torch.bfloat16, device=self._device).normal_(generator=generator)
        return values / max(1, values[0].numel()) ** 0.5


@dataclass(frozen=True)
class RandomBundle:
    """Networks of the 14B model's sizes with random weights. Takes the place of `Bundle`."""

    tokenizer: Path

    def transformer(
        self, dtype: torch.dtype, device: str, loras: Sequence[Any] = (), compat_upstream: bool = False, low_memory: bool = False
    ) -> InfiniteTalkTransformer:
        with build_empty():
            network = InfiniteTalkTransformer()
        self._fill(network, dtype, device, network.fp32_modules, ["blocks"] if low_memory else ())
        if low_memory:
            offload(network.blocks, device)
        return network

    def codec(self, dtype: torch.dtype, device: str) -> LatentCodec:
        with build_empty():
            network = AutoencoderKLWan()
        return LatentCodec(self._fill(network, dtype, device))

    def text_encoder(self, dtype: torch.dtype, device: str, low_memory: bool = False) -> TextEncoder:
        sizes = UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")
        with build_empty():
            network = UMT5EncoderModel(sizes)
            network.encoder.embed_tokens = network.shared
        self._fill(network, dtype, device, host_modules=["encoder.block"] if low_memory else ())
        if low_memory:
            offload(network.encoder.block, device)
        return TextEncoder(network, open_tokenizer(self.tokenizer))

    def image_encoder(self, dtype: torch.dtype, device: str) -> ImageEncoder:
        sizes = CLIPVisionConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, patch_size=14)
        with build_empty():
            network = CLIPVisionModel(sizes)
        return ImageEncoder(self._fill(network, dtype, device))

    def _fill(self, network: Any, dtype: torch.dtype, device: str, fp32_modules: Sequence[str] = (), host_modules: Sequence[str] = ()) -> Any:
        checkpoint = RandomCheckpoint(network, device)
        names = {name for name, _ in network.named_parameters()} | {name for name, _ in network.named_buffers()}
        sources = {name: TensorSource(checkpoint, name, 0, 1) for name in checkpoint if name in names}
        load_weights(network, sources, dtype=dtype, device=device, fp32_modules=fp32_modules, host_modules=host_modules)
        return network


@dataclass
class Findings:
    """Prints each finding with its time, and counts those that are wrong."""

    started: float
    wrong: int = 0

    def note(self, text: str, good: bool = True) -> None:
        self.wrong += not good
        print(f"{time.monotonic() - self.started:7.1f} s  {'' if good else 'WRONG: '}{text}", flush=True)


def measured(device: str, work: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result of `work`, its seconds, and the peak of GPU memory in GiB (0 on a CPU)."""
    if device == "cpu":
        started = time.monotonic()
        return work(), time.monotonic() - started, 0.0
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    started = time.monotonic()
    result = work()
    torch.cuda.synchronize()
    return result, time.monotonic() - started, torch.cuda.max_memory_allocated() / GIB


def settings_of(toy: bool, root: str) -> RunConfig:
    """The preset's settings with two steps; for a rehearsal the bundled model at the same precision."""
    preset = ["preset=tiny", "generate/precision=bf16"] if toy else ["preset=infinitetalk_480"]
    return checked(compose([*preset, "generate.sampler.steps=2", "catalogue=none.jsonl", f"storage.root={root}/root", f"storage.cache={root}/cache"]))


def stored(files: StageFiles, folder: Path, tensors: Mapping[str, Tensor]) -> Artifact:
    save_file(dict(tensors), folder / "features.safetensors")
    return files.store(folder / "features.safetensors", "tensors/safetensors")


def run(arguments: argparse.Namespace, folder: Path) -> int:
    """All steps in order; the number of wrong findings."""
    found = Findings(time.monotonic())
    device = "cpu" if arguments.toy else "cuda:0"
    config = settings_of(arguments.toy, str(folder))
    model = config.generate.model
    rank = Rank(device=device, low_memory=arguments.low_memory)
    bundle: Bundle | RandomBundle = open_bundle(resolve_weights("bundled:tiny"))
    if not arguments.toy:
        bundle = RandomBundle(open_bundle(resolve_weights("bundled:tiny")).layout.tokenizer())
        card = torch.cuda.get_device_properties(0)
        found.note(f"{card.name}, {card.total_memory / GIB:.1f} GiB; torch {torch.__version__}, CUDA {torch.version.cuda}")
    expected = device_bytes(SIDE * SIDE, config.generate.precision.dtype, 1, low_memory=arguments.low_memory)
    layers, channels, count = (3, 64, model.window_frames) if arguments.toy else (AUDIO_LAYERS, AUDIO_CHANNELS, FRAMES)
    segment = Segment(0, Span(0, count), (Window(Span(0, count), 0, 0, 0),))
    specs = stage_specs(config)
    storage = Storage(config.storage)

    with patch.multiple("infinitedub.stages.engines.infinitetalk.preparation", resolve_weights=Path, open_bundle=lambda *_: bundle):
        with StageFiles(storage, stage="condition", key="a" * 64) as files:
            generator = torch.Generator().manual_seed(1)
            pixels = (torch.rand((SIDE, SIDE, 3), generator=generator) * 255).byte().numpy()
            Image.fromarray(pixels).save(folder / "face.png")
            picture = files.store(folder / "face.png", "picture/png")
            features = {"speaker_0": torch.randn(count, layers, channels, generator=generator), "silence": torch.zeros(layers, channels)}
            speech = Speech(stored(files, folder, features), count, (None,))
            voice = Voice(speech.features, 16000, 16000, 0, None)
            source = Source(picture, False, SIDE, SIDE, model.fps, 1, (voice,))
            stage = specs["condition"].stage
            _, seconds, peak = measured(device, lambda: stage.open(rank))
            found.note(f"condition opened in {seconds:.1f} s, {peak:.1f} GiB")
            prompt = Prompt("a person talks", "blurry")
            conditions, seconds, peak = measured(device, lambda: stage(source, segment, prompt, files=files))
            assert isinstance(conditions, Conditions)
            limit = expected.condition / GIB
            found.note(f"condition: {seconds:.1f} s, peak {peak:.1f} GiB, computed {limit:.1f} GiB", good=device == "cpu" or peak <= limit)
            stage.close()
        if device != "cpu":
            torch.cuda.empty_cache()

    with patch.multiple("infinitedub.stages.engines.infinitetalk.window", resolve_weights=Path, open_bundle=lambda *_: bundle):
        stage = specs["generate"].stage
        _, seconds, peak = measured(device, lambda: stage.open(rank))
        found.note(f"generate opened in {seconds:.1f} s, peak {peak:.1f} GiB")
        digests = []
        for number, key in enumerate(("b" * 64, "c" * 64)):  # two keys: no checkpoint of the first is found by the second
            with StageFiles(storage, stage="generate", key=key) as files:
                call = lambda: list(stage(segment, conditions, speech, Seed(1, "first"), files=files))  # noqa: E731
                (chunk, clip), seconds, peak = measured(device, call)
                assert isinstance(chunk, Chunk)
                assert isinstance(clip, Clip)
                limit = expected.generate / GIB
                found.note(f"window {number}: {seconds:.1f} s, peak {peak:.1f} GiB, computed {limit:.1f} GiB", good=device == "cpu" or peak <= limit)
                digests.append(chunk.picture.sha256)
        found.note(f"finite; made twice with {'the same' if digests[0] == digests[1] else 'other'} bits", good=digests[0] == digests[1])
        stage.close()
    return found.wrong


def main() -> int:
    """Exits with 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="the bundled model's sizes on a CPU")
    parser.add_argument("--low-memory", action="store_true", help="weights of the blocks in host memory")
    arguments = parser.parse_args()
    if not arguments.toy and not torch.cuda.is_available():
        parser.error("no CUDA device is available; rehearse with --toy")
    with tempfile.TemporaryDirectory() as folder:
        return 1 if run(arguments, Path(folder)) else 0


if __name__ == "__main__":
    sys.exit(main())
