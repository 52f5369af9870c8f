"""The attention kernel and compilation are settings; a kernel that torch does not have is refused."""

import pytest
import torch

from infinitedub.stages.contract import Rank
from infinitedub.stages.engines.infinitetalk.window import compile_blocks
from infinitedub.stages.errors import ConfigError
from infinitedub.stages.generate.stage import GenerateStage
from infinitedub.stages.model.attention_kernels import BACKENDS, attention_kernel, check_kernel
from infinitedub.stages.model.shards import SingleDevice, attention
from tests.golden.read import denoiser, golden
from tests.unit.tiny import generate_settings


def test_every_kernel_of_the_setting_is_known() -> None:
    for name in BACKENDS:
        assert generate_settings(attention=name).attention == name


@pytest.mark.parametrize("name", ["native", "flash", "math"])
def test_the_kernels_that_a_cpu_has_agree(name: str) -> None:
    query, key, value = torch.randn(3, 1, 20, 2, 16, generator=torch.Generator().manual_seed(3)).unbind()
    check_kernel(name, 16, torch.float32, "cpu")
    with attention_kernel(name):
        attended = attention(query, key, value)
    assert torch.allclose(attended, attention(query, key, value), atol=1e-6)


def test_a_kernel_that_the_device_lacks_is_refused_when_the_stage_is_opened() -> None:
    stage = GenerateStage(generate_settings(attention="cudnn"))
    with pytest.raises(ConfigError, match=r"no attention kernel 'cudnn' for float32 on cpu .*generate\.attention=native"):
        stage.open(Rank())


def test_a_stage_takes_deterministic_kernels() -> None:
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
    GenerateStage(generate_settings()).open(Rank())
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark


@torch.no_grad()
def test_compiled_blocks_give_the_numbers_of_the_others() -> None:
    network = denoiser("dit_single")
    given = golden("dit_single")
    latents = torch.cat([given["in.x"][None], given["in.y"]], dim=1)

    def flow() -> torch.Tensor:
        conditioning = network.embed(given["in.context"][None], given["in.clip_fea"], given["in.audio"])
        return network(latents, given["in.t"], conditioning, given["in.ref_target_masks"], shards=SingleDevice())

    wanted = flow()
    compile_blocks(network)
    first = flow()
    assert torch.allclose(first, wanted, atol=1e-4)
    assert torch.equal(flow(), first)
