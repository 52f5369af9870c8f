"""Fixtures of single forwards of the denoiser, in one process and shared by several."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from infinitedub.pipeline.verify.comparison import Check, Skipped, compare
from infinitedub.pipeline.verify.fixture import Fixture
from infinitedub.pipeline.verify.networks import build_transformer
from infinitedub.stages.contract import Rank
from infinitedub.stages.engines.parallel import join, leave
from infinitedub.stages.engines.settings import ParallelSettings
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.dit import InfiniteTalkTransformer
from infinitedub.stages.model.shards import Shards, SingleDevice, plan_shards

TOLERANCE = 1e-4
ROUNDED = "_bf16"
ROUNDED_DRIFT = 2.0
"""Factor on the fixture's error of the release's bfloat16 against float32: ours has about the same error, so the two differ by up to twice that."""


def check_denoiser(fixture: Fixture, parallel: ParallelSettings, dtype: torch.dtype) -> Iterator[Check | Skipped]:
    """The forward in float32; also in `dtype` and shared by several processes if the profile says so."""
    expected = fixture["out"]
    yield compare(fixture.name, "out", forward(fixture), expected, TOLERANCE)
    if dtype != torch.float32:
        scale = expected.abs().max().item()
        yield compare(fixture.name, "out in bf16", forward(fixture, dtype=dtype), expected, 0.1 * scale, 0.01 * scale)
    if parallel.degree > 1:
        try:
            plan(fixture, parallel.degree)
        except ConfigError as error:
            yield Skipped(fixture.name, str(error))
            return
        for rank, ours in enumerate(forward_shared(fixture, parallel)):
            yield compare(fixture.name, f"out, rank {rank} of {parallel.degree}", ours, expected, TOLERANCE)


def check_rounded_denoiser(fixture: Fixture) -> Iterator[Check]:
    """The forward in bfloat16 of the fixture with the same name without the ending."""
    exact = Fixture(fixture.path.with_name(fixture.path.name.replace(ROUNDED, "")))
    ours = forward(exact, dtype=torch.bfloat16)
    drift_max, drift_mean = fixture.about["err_vs_fp32_max"], fixture.about["err_vs_fp32_mean"]
    yield compare(fixture.name, "out", ours, fixture["out_bf16"], ROUNDED_DRIFT * drift_max, ROUNDED_DRIFT * drift_mean)


def forward(fixture: Fixture, shards: Shards | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """The fixture's one call of the denoiser."""
    network = build_transformer(fixture.weights("w."), fixture.about, dtype)
    return call(network, fixture, shards or SingleDevice())


@torch.inference_mode()
def call(network: InfiniteTalkTransformer, fixture: Fixture, shards: Shards) -> Tensor:
    conditioning = network.embed(fixture["in.context"][None], fixture["in.clip_fea"], fixture["in.audio"])
    latents = torch.cat([fixture["in.x"][None], fixture["in.y"]], dim=1)
    return network(latents, fixture["in.t"], conditioning, fixture["in.ref_target_masks"], shards=shards)


def plan(fixture: Fixture, degree: int) -> None:
    """Raises ConfigError if the fixture cannot be shared by `degree` processes."""
    frames, height, width = fixture["in.x"].shape[1:]
    frame_tokens = height * width // 4
    plan_shards(frames * frame_tokens, frame_tokens, fixture.about["constructor"]["num_heads"], degree)


def forward_shared(fixture: Fixture, parallel: ParallelSettings) -> list[Tensor]:
    """The result of each of several processes."""
    with TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (fixture.path, Path(folder), parallel), nprocs=parallel.degree)
        return [load_file(Path(folder) / f"{rank}.safetensors")["out"] for rank in range(parallel.degree)]


def work(rank: int, path: Path, folder: Path, parallel: ParallelSettings) -> None:
    """One process: writes its result to `folder`, which also holds the rendezvous file."""
    torch.set_num_threads(1)
    shards = join(Rank(rank, parallel.degree, "cpu", (folder / "meeting").as_uri()), parallel)
    try:
        save_file({"out": forward(Fixture(path), shards).contiguous()}, folder / f"{rank}.safetensors")
    finally:
        leave(shards)
