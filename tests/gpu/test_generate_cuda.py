"""What only a GPU can show: the denoiser in bfloat16 on CUDA, and xfuser's attention against plain attention."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from infinitedub.stages.contract import Rank
from infinitedub.stages.engines.parallel import XfuserUlysses, join, leave
from infinitedub.stages.engines.settings import ParallelSettings
from infinitedub.stages.model.shards import Shards, SingleDevice
from tests.golden.read import denoiser, golden

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

FIXTURES = ("dit_single", "dit_multi")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCES = {"fp32": 2e-4, "bf16": 6e-2}  # the release's own bfloat16 is 3e-2 off its float32 on these fixtures


@torch.inference_mode()
def forward(name: str, dtype: torch.dtype, device: str, shards: Shards) -> torch.Tensor:
    network = denoiser(name, dtype).to(device)
    given = {key: tensor.to(device) for key, tensor in golden(name).items() if key.startswith("in.")}
    told = network.embed(given["in.context"][None], given["in.clip_fea"], given["in.audio"])
    latents = torch.cat([given["in.x"][None], given["in.y"]], dim=1)
    return network(latents, given["in.t"], told, given["in.ref_target_masks"], shards=shards).cpu()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FIXTURES)
def test_the_gpu_makes_what_the_release_makes(name: str, dtype: str, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    made = forward(name, DTYPES[dtype], "cuda", SingleDevice())
    assert made.isfinite().all()
    assert (made - golden(name)["out"]).abs().max() < TOLERANCES[dtype]


def work(rank: int, folder: Path, dtype: str) -> None:
    device = f"cuda:{rank}"
    settings = ParallelSettings(degree=2, backend="xfuser", timeout_seconds=120)
    shards = join(Rank(rank, 2, device, (folder / "meeting").as_uri()), settings)
    assert isinstance(shards, XfuserUlysses)
    save_file({name: forward(name, DTYPES[dtype], device, shards) for name in FIXTURES}, folder / f"{rank}.safetensors")
    leave(shards)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("dtype", DTYPES)
def test_xfuser_shares_a_window_between_two_gpus(dtype: str, tmp_path: Path):
    torch.multiprocessing.spawn(work, (tmp_path, dtype), nprocs=2)
    for rank in range(2):
        for name, made in load_file(tmp_path / f"{rank}.safetensors").items():
            assert (made - golden(name)["out"]).abs().max() < TOLERANCES[dtype], (rank, name)
