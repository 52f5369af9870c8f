"""Fixtures of single forwards of the denoiser, on one process and shared by several."""

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
"""Two roundings of one model are each about as far from its float32 as the fixture says, so up to twice that from each other."""


def check_denoiser(fixture: Fixture, parallel: ParallelSettings, dtype: torch.dtype) -> Iterator[Check | Skipped]:
    """The forward in float32; in `dtype` as well, and shared by several processes, where that is asked for."""
    theirs = fixture["out"]
    yield compare(fixture.name, "out", forward(fixture), theirs, TOLERANCE)
    if dtype != torch.float32:
        scale = theirs.abs().max().item()
        yield compare(fixture.name, "out in bf16", forward(fixture, dtype=dtype), theirs, 0.1 * scale, 0.01 * scale)
    if parallel.degree > 1:
        try:
            plan(fixture, parallel.degree)
        except ConfigError as error:
            yield Skipped(fixture.name, str(error))
            return
        for rank, ours in enumerate(forward_shared(fixture, parallel)):
            yield compare(fixture.name, f"out, rank {rank} of {parallel.degree}", ours, theirs, TOLERANCE)


def check_rounded_denoiser(fixture: Fixture) -> Iterator[Check]:
    """The forward in bfloat16 of the fixture whose name lacks the ending."""
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
    """Raises ConfigError where the fixture cannot be shared by `degree` processes."""
    frames, height, width = fixture["in.x"].shape[1:]
    frame_tokens = height * width // 4
    plan_shards(frames * frame_tokens, frame_tokens, fixture.about["constructor"]["num_heads"], degree)


def forward_shared(fixture: Fixture, parallel: ParallelSettings) -> list[Tensor]:
    """What each of several processes gives."""
    with TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (fixture.path, Path(folder), parallel), nprocs=parallel.degree)
        return [load_file(Path(folder) / f"{rank}.safetensors")["out"] for rank in range(parallel.degree)]


def work(rank: int, path: Path, folder: Path, parallel: ParallelSettings) -> None:
    """One process's share; it leaves its result in `folder`, where the processes also meet."""
    torch.set_num_threads(1)
    shards = join(Rank(rank, parallel.degree, "cpu", (folder / "meeting").as_uri()), parallel)
    try:
        save_file({"out": forward(Fixture(path), shards).contiguous()}, folder / f"{rank}.safetensors")
    finally:
        leave(shards)
