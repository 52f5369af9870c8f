"""The denoiser against outputs of the release, and its intended differences from the release."""

import threading

import pytest
import torch

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.dit import EmbeddedConditioning, InfiniteTalkTransformer
from infinitedub.stages.model.shards import Shards, SingleDevice, attention
from infinitedub.stages.model.weights.load import build_empty
from tests.golden.read import denoiser, golden

ONE, TWO = "dit_single", "dit_multi"


def latents(name: str) -> torch.Tensor:
    tensors = golden(name)
    return torch.cat([tensors["in.x"][None], tensors["in.y"]], dim=1)


def embed(network: InfiniteTalkTransformer, name: str) -> EmbeddedConditioning:
    tensors = golden(name)
    return network.embed(tensors["in.context"][None], tensors["in.clip_fea"], tensors["in.audio"])


@torch.no_grad()
def flow(
    network: InfiniteTalkTransformer, name: str, shards: Shards | None = None, masks: torch.Tensor | None = None, step_cache=None
) -> torch.Tensor:
    tensors = golden(name)
    masks = tensors["in.ref_target_masks"] if masks is None else masks
    return network(latents(name), tensors["in.t"], embed(network, name), masks, shards=shards or SingleDevice(), step_cache=step_cache)


@pytest.mark.parametrize("name", [ONE, TWO])
def test_float32_equals_the_release(name):
    assert torch.allclose(flow(denoiser(name), name), golden(name)["out"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [ONE, TWO])
def test_every_block_equals_the_release(name):
    """A fault shows in the block that causes it."""
    network, seen = denoiser(name), {}
    for number, block in enumerate(network.blocks):
        block.register_forward_hook(lambda _, __, out, number=number: seen.update({f"int.blocks.{number}.out": out}))
        block.audio_cross_attn.register_forward_hook(
            lambda _, __, out, number=number: seen.update({f"int.blocks.{number}.audio_cross_attn.out": out})
        )
    flow(network, name)
    assert len(seen) == 4
    for key, value in seen.items():
        assert torch.allclose(value, golden(name)[key], rtol=0, atol=1e-4), key


@pytest.mark.parametrize("name", [ONE, TWO])
def test_embedded_conditioning_equals_the_release(name):
    with torch.no_grad():
        conditioning = embed(denoiser(name), name)
    assert torch.allclose(conditioning.image_text, golden(name)["int.block_kwargs.context"], rtol=0, atol=1e-5)
    assert torch.allclose(conditioning.audio, golden(name)["int.block_kwargs.audio_embedding"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [ONE, TWO])
def test_bfloat16_stays_close_to_the_releases_bfloat16(name):
    """The release's own bfloat16 differs from its float32 by 3e-2 here."""
    network = denoiser(name, torch.bfloat16)
    made = flow(network, name)
    assert made.dtype == torch.float32
    assert (made - golden(f"{name}_bf16")["out_bf16"]).abs().max() < 6e-2
    assert network.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16


def test_float32_modules_have_rounded_weights():
    rounded, exact = denoiser(ONE, torch.bfloat16), denoiser(ONE)
    for name in rounded.fp32_modules:
        ours, theirs = rounded.get_submodule(name).state_dict(), exact.get_submodule(name).state_dict()
        assert ours
        for key, value in ours.items():
            assert value.dtype == torch.float32
            assert torch.equal(value, theirs[key].bfloat16().float()), (name, key)


def test_the_14b_model_has_the_releases_size():
    with build_empty():
        network = InfiniteTalkTransformer()
    assert sum(parameter.numel() for parameter in network.parameters()) == 18_882_046_784


# -- one and two speakers ---------------------------------------------------------------------------------------------


def test_one_speaker_needs_no_masks_and_no_map(monkeypatch):
    def refuse(*_):
        raise AssertionError("the map of speakers was computed for one speaker")

    monkeypatch.setattr("infinitedub.stages.model.dit.speaker_positions", refuse)
    network, tensors = denoiser(ONE), golden(ONE)
    with torch.no_grad():
        made = network(latents(ONE), tensors["in.t"], embed(network, ONE), None, shards=SingleDevice())
    assert torch.equal(made, flow(network, ONE))


def test_two_speakers_need_masks():
    network = denoiser(TWO)
    with pytest.raises(ValueError, match="masks"), torch.no_grad():
        network(latents(TWO), golden(TWO)["in.t"], embed(network, TWO), None, shards=SingleDevice())


def test_the_masks_assign_speech_to_speakers():
    network, masks = denoiser(TWO), golden(TWO)["in.ref_target_masks"]
    assert not torch.allclose(flow(network, TWO), flow(network, TWO, masks=masks[[1, 0, 2]]), atol=1e-3)


def test_an_empty_mask_gives_finite_output_except_with_compat_upstream():
    network, masks = denoiser(TWO), golden(TWO)["in.ref_target_masks"].clone()
    masks[2] = 0
    made = flow(network, TWO, masks=masks)
    network.compat_upstream = True
    released = flow(network, TWO, masks=masks)
    assert made.isfinite().all()
    assert not torch.allclose(made, released, atol=1e-3)  # the release assigns every token to the background


def test_audio_must_fit_the_latents():
    network = denoiser(ONE)
    with torch.no_grad():
        conditioning = embed(network, ONE)
        with pytest.raises(ValueError, match="latent frames"):
            network(latents(ONE)[:, :, :3], golden(ONE)["in.t"], conditioning, None, shards=SingleDevice())


def test_too_much_text_and_too_many_speakers_are_refused():
    network, tensors = denoiser(ONE), golden(ONE)
    with pytest.raises(ValueError, match="513 text tokens"):
        network.embed(torch.zeros(1, 513, 24), tensors["in.clip_fea"], tensors["in.audio"])
    with pytest.raises(ValueError, match="3 speakers"):
        network.embed(tensors["in.context"][None], tensors["in.clip_fea"], tensors["in.audio"].repeat(3, 1, 1, 1, 1))


# -- skipped steps ----------------------------------------------------------------------------------------------------


class Recorder:
    """A step cache that answers with `answer` and records what it is given."""

    def __init__(self, answer=None):
        self.answer, self.kept = answer, []

    def reuse(self):
        return self.answer

    def keep(self, residual):
        self.kept.append(residual)


def test_a_stored_residual_gives_the_same_flow():
    network, first = denoiser(ONE), Recorder()
    computed = flow(network, ONE, step_cache=first)
    assert torch.allclose(network.embed_time(golden(ONE)["in.t"])[1], golden(ONE)["int.block_kwargs.e"], rtol=0, atol=1e-4)
    again = Recorder(answer=first.kept[0])
    reused = flow(network, ONE, step_cache=again)
    assert again.kept == []
    assert torch.allclose(reused, computed, rtol=0, atol=1e-5)  # (h + r) - h is not r to the last bit
    assert not torch.allclose(flow(network, ONE, step_cache=Recorder(answer=torch.zeros_like(first.kept[0]))), computed, atol=1e-3)


# -- shards -----------------------------------------------------------------------------------------------------------


class ThreadGroup:
    """Ranks as threads of one process, which exchange tensors in a shared list."""

    def __init__(self, degree: int) -> None:
        self.barrier = threading.Barrier(degree, timeout=60)
        self.slots: list[torch.Tensor | None] = [None] * degree

    def exchange(self, rank: int, tensor: torch.Tensor) -> list[torch.Tensor]:
        self.slots[rank] = tensor
        self.barrier.wait()
        everyone = list(self.slots)
        self.barrier.wait()
        return everyone


class ThreadRank:
    def __init__(self, group: ThreadGroup, rank: int, degree: int) -> None:
        self.group, self.rank, self.degree = group, rank, degree

    def all(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat(self.group.exchange(self.rank, tensor), dim=1)

    def attention(self, query, key, value):
        return attention(query, self.all(key), self.all(value))

    def gather(self, tokens):
        return self.all(tokens)

    def first_frame(self, keys, frame_tokens):
        return self.all(keys)[:, :frame_tokens]

    def min_max(self, rows):
        return torch.aminmax(self.all(rows), dim=1)


def run_ranks(network: InfiniteTalkTransformer, name: str, degree: int) -> list[torch.Tensor]:
    group, results = ThreadGroup(degree), [None] * degree

    def run_rank(rank: int) -> None:
        try:
            results[rank] = flow(network, name, shards=ThreadRank(group, rank, degree))
        except BaseException:
            group.barrier.abort()
            raise

    threads = [threading.Thread(target=run_rank, args=(rank,)) for rank in range(degree)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("name", [ONE, TWO])
@pytest.mark.parametrize("degree", [2, 3, 4, 8])
def test_shards_make_the_flow_of_one_device(name, degree):
    """48 tokens in 4 frames of 12: with 3 ranks a shard begins inside a frame, with 8 it is smaller than a frame."""
    network = denoiser(name)
    whole = flow(network, name)
    for part in run_ranks(network, name, degree):
        assert torch.allclose(part, whole, rtol=0, atol=2e-5)


def test_tokens_that_ranks_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="5 ranks"):
        flow(denoiser(ONE), ONE, shards=ThreadRank(ThreadGroup(1), 0, 5))
