"""A window shared by two and four processes over gloo is the window that one makes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file

from infinitedub.stages.contract import Rank
from infinitedub.stages.generate.engine import WindowInputs
from infinitedub.stages.generate.infinitetalk import InfiniteTalk
from infinitedub.stages.generate.parallel import join, leave
from infinitedub.stages.generate.sampling.guidance import Cfg
from infinitedub.stages.generate.sampling.samplers import SamplerSettings
from infinitedub.stages.generate.sampling.step_cache import NoCache
from infinitedub.stages.generate.settings import ParallelSettings
from infinitedub.stages.model.dit import InfiniteTalkTransformer
from infinitedub.stages.model.latent_codec import LatentCodec
from infinitedub.stages.model.shards import Shards, SingleDevice

TOLERANCE = 1e-4  # that of the denoiser against the release

SIZES = {
    "whole frames": (4, 4, 8),  # latent frames, height, width: 32 tokens, 8 to a frame
    "cut inside a frame": (5, 6, 8),  # 60 tokens, 12 to a frame
    "less than a frame each": (2, 8, 8),  # 32 tokens, 16 to a frame: with four ranks the first frame lies on two
}


def denoiser() -> InfiniteTalkTransformer:
    """Random weights, the same in every process."""
    torch.manual_seed(3)
    network = InfiniteTalkTransformer(
        num_attention_heads=4,
        attention_head_dim=12,
        text_dim=16,
        freq_dim=16,
        ffn_dim=64,
        num_layers=2,
        image_dim=24,
        audio_blocks=2,
        audio_channels=8,
        intermediate_dim=16,
        context_tokens=4,
        output_dim=20,
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return network.eval()


def cue(frames: int, height: int, width: int, persons: int) -> WindowInputs:
    generator = torch.Generator().manual_seed(11)
    masks = torch.zeros(3, height, width)
    masks[0, :, : width // 2 - 1], masks[1, :, width // 2 + 1 :] = 1, 1
    masks[2] = 1 - masks[0] - masks[1]

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return WindowInputs(
        text=draw(1, 7, 16),
        null_text=draw(1, 3, 16),
        image=draw(1, 257, 24),
        reference=draw(1, 16, frames, height, width),
        audio=draw(persons, 4 * frames - 3, 5, 2, 8),
        masks=masks if persons == 2 else None,
        overlap_frames=0,
    )


def codec() -> LatentCodec:
    torch.manual_seed(4)
    return LatentCodec(AutoencoderKLWan(base_dim=4, z_dim=16).eval())


def make(shards: Shards) -> dict[str, torch.Tensor]:
    """The latents of a window of each size, for one person and for two, in three passes and two steps; and on rank 0 the frames of one more window,
    which starts from frames that only rank 0 has."""
    first = shards.rank == 0
    engine = InfiniteTalk(
        denoiser(),
        codec() if first else None,
        sampler=SamplerSettings(name="euler", steps=2, shift=3.0),
        guidance=Cfg(name="cfg", text_scale=2.0, audio_scale=3.0),
        cache=NoCache(name="none"),
        shards=shards,
    )
    made = {}
    for name, size in SIZES.items():
        for persons in (1, 2):
            told = cue(*size, persons)
            noise = torch.randn(told.reference.shape, generator=torch.Generator().manual_seed(5))
            with torch.inference_mode():
                made[f"{name}, {persons}"] = engine.denoise(told, told.reference[:, :, :1], noise).contiguous()
    motion = torch.rand(1, 3, 5, 48, 64, generator=torch.Generator().manual_seed(6)) - 0.5
    told = replace(cue(*SIZES["cut inside a frame"], 1), overlap_frames=5)
    frames = engine.window(told, motion if first else None, lambda shape: torch.randn(shape, generator=torch.Generator().manual_seed(8)))
    assert (frames is not None) is first
    return made if frames is None else made | {"frames": frames.contiguous()}


def settings(degree: int) -> ParallelSettings:
    return ParallelSettings(degree=degree, backend="auto", timeout_seconds=300)


def work(rank: int, degree: int, folder: Path) -> None:
    torch.set_num_threads(1)
    shards = join(Rank(rank, degree, "cpu", (folder / "meeting").as_uri()), settings(degree))
    save_file(make(shards), folder / f"{rank}.safetensors")
    if rank == 0:
        with pytest.raises(RuntimeError):  # the others have gone home
            shards.gather(torch.zeros(1, 2, 4))
    leave(shards)
    assert not dist.is_initialized()


@pytest.fixture(scope="module")
def alone() -> dict[str, torch.Tensor]:
    return make(SingleDevice())


@pytest.mark.parametrize("degree", [2, 4])
def test_all_ranks_make_what_one_process_makes(degree: int, alone, tmp_path):
    """And a rank whose partners have left says so within the time it was given."""
    torch.multiprocessing.spawn(work, (degree, tmp_path), nprocs=degree)
    for rank in range(degree):
        made = load_file(tmp_path / f"{rank}.safetensors")
        assert set(made) == (set(alone) if rank == 0 else set(alone) - {"frames"})
        for name, latents in made.items():
            assert torch.allclose(latents, alone[name], rtol=0, atol=TOLERANCE), (rank, name)


def test_two_persons_are_not_one(alone):
    """So that the comparison above is of two different paths."""
    assert (alone["whole frames, 1"] - alone["whole frames, 2"]).abs().max() > 0.01
