"""What only a GPU can show of the low-memory profile: less memory, the same bits."""

import pytest
import torch

from infinitedub.stages.model.offload import offload
from infinitedub.stages.model.shards import SingleDevice
from tests.golden.read import denoiser, golden

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["dit_single", "dit_multi"])
@torch.inference_mode()
def test_a_denoiser_whose_blocks_wait_in_host_memory_makes_the_same_bits(name: str, dtype: torch.dtype):
    network = denoiser(name, dtype).to("cuda")
    given = {key: tensor.to("cuda") for key, tensor in golden(name).items() if key.startswith("in.")}
    latents = torch.cat([given["in.x"][None], given["in.y"]], dim=1)

    def flow() -> torch.Tensor:
        conditioning = network.embed(given["in.context"][None], given["in.clip_fea"], given["in.audio"])
        return network(latents, given["in.t"], conditioning, given["in.ref_target_masks"], shards=SingleDevice())

    wanted, held = flow(), torch.cuda.memory_allocated()
    offload(network.blocks, "cuda")
    assert torch.equal(flow(), wanted)
    freed = sum(weight.numel() * weight.element_size() for weight in network.blocks.parameters())
    assert held - torch.cuda.memory_allocated() > freed / 2
    assert all(weight.device.type == "cpu" for weight in network.blocks.parameters())
