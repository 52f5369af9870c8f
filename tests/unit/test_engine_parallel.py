"""A window shared by two and four processes over gloo is the window that one makes."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from diffusers import AutoencoderKLWan
from PIL import Image
from safetensors.torch import load_file, save_file

from infinitedub.stages.condition.stage import ConditionStage
from infinitedub.stages.contract import Rank
from infinitedub.stages.engines.infinitetalk.window import InfiniteTalk
from infinitedub.stages.engines.infinitetalk.window_inputs import WindowInputs
from infinitedub.stages.engines.parallel import STATUS_BYTES, decode_status, encode_status, join, leave
from infinitedub.stages.engines.settings import ParallelSettings
from infinitedub.stages.errors import BadInput, Transient
from infinitedub.stages.generate.stage import GenerateStage
from infinitedub.stages.model.dit import InfiniteTalkTransformer
from infinitedub.stages.model.latent_codec import LatentCodec
from infinitedub.stages.model.shards import Shards, SingleDevice
from infinitedub.stages.records import Artifact, Prompt, Seed, Speech
from infinitedub.stages.sampling.guidance import Cfg
from infinitedub.stages.sampling.samplers import SamplerSettings
from infinitedub.stages.sampling.step_cache import NoCache
from tests.unit.conftest import LocalFiles
from tests.unit.tiny import condition_settings, generate_settings, segment_of, source_of

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


def window_inputs(frames: int, height: int, width: int, persons: int) -> WindowInputs:
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
        device="cpu",
    )
    made = {}
    for name, size in SIZES.items():
        for persons in (1, 2):
            inputs = window_inputs(*size, persons)
            noise = torch.randn(inputs.reference.shape, generator=torch.Generator().manual_seed(5))
            with torch.inference_mode():
                made[f"{name}, {persons}"] = engine.denoise(inputs, inputs.reference[:, :, :1], noise).contiguous()
    motion = torch.rand(1, 3, 5, 48, 64, generator=torch.Generator().manual_seed(6)) - 0.5
    inputs = replace(window_inputs(*SIZES["cut inside a frame"], 1), overlap_frames=5)
    frames = engine.window(inputs, motion if first else None, lambda shape: torch.randn(shape, generator=torch.Generator().manual_seed(8)))
    assert (frames is not None) is first
    return made if frames is None else made | {"frames": frames.contiguous()}


def settings(degree: int) -> ParallelSettings:
    return ParallelSettings(degree=degree, backend="auto", timeout_seconds=300)


def work(rank: int, degree: int, folder: Path) -> None:
    torch.set_num_threads(1)
    shards = join(Rank(rank, degree, "cpu", (folder / "rendezvous").as_uri()), settings(degree))
    save_file(make(shards), folder / f"{rank}.safetensors")
    if rank == 0:
        with pytest.raises(RuntimeError):  # the others have left
            shards.gather(torch.zeros(1, 2, 4))
    leave(shards)
    assert not dist.is_initialized()


@pytest.fixture(scope="module")
def alone() -> dict[str, torch.Tensor]:
    return make(SingleDevice())


@pytest.mark.parametrize("degree", [2, 4])
def test_all_ranks_make_what_one_process_makes(degree: int, alone, tmp_path):
    """And a rank whose peers have left raises within the timeout."""
    torch.multiprocessing.spawn(work, (degree, tmp_path), nprocs=degree)
    for rank in range(degree):
        made = load_file(tmp_path / f"{rank}.safetensors")
        assert set(made) == (set(alone) if rank == 0 else set(alone) - {"frames"})
        for name, latents in made.items():
            assert torch.allclose(latents, alone[name], rtol=0, atol=TOLERANCE), (rank, name)


def test_two_persons_are_not_one(alone):
    """Otherwise the comparison above would test one path twice."""
    assert (alone["whole frames, 1"] - alone["whole frames, 2"]).abs().max() > 0.01


# -- failures of one rank ---------------------------------------------------------------------------------------------------------------------


class FailingFiles(LocalFiles):
    """Files of which one method fails after a number of good calls."""

    def __init__(self, root: Path, method: str, good_calls: int, error: Exception) -> None:
        super().__init__(root)
        self._method, self._good_calls, self._error = method, good_calls, error

    def _fail(self, method: str) -> None:
        if method == self._method:
            self._good_calls -= 1
            if self._good_calls < 0:
                raise self._error

    def fetch(self, what):
        self._fail("fetch")
        return super().fetch(what)

    def store(self, path, kind):
        self._fail("store")
        return super().store(path, kind)

    def load_checkpoint(self, number, type_):
        self._fail("load_checkpoint")
        return super().load_checkpoint(number, type_)

    def save_checkpoint(self, number, record):
        self._fail("save_checkpoint")
        return super().save_checkpoint(number, record)


FAILING_CALLS = [  # rank, method, good calls before, error
    (1, "fetch", 0, Transient("the server answered 503")),
    (0, "fetch", 1, BadInput("speech is missing")),
    (0, "load_checkpoint", 0, Transient("the server answered 503")),
    (0, "store", 0, Transient("no route to the server")),
    (0, "store", 1, OSError(errno.ENOSPC, "disk is full")),  # of the motion frames
    (0, "save_checkpoint", 1, Transient("no route to the server")),  # of the last window: no window follows
    (0, "store", 2, KeyError("a bug")),
]


def prepared(folder: Path, segment, files):
    """Conditions of a photograph and speech."""
    photograph, features = folder / "face.png", folder / "speech.safetensors"
    Image.new("RGB", (64, 64), (120, 90, 70)).save(photograph)
    save_file({"speaker_0": torch.randn(20, 3, 64, generator=torch.Generator().manual_seed(5)), "silence": torch.zeros(3, 64)}, features)
    stage = ConditionStage(condition_settings())
    stage.open(Rank())
    conditions = stage(source_of(photograph, width=64, height=64), segment, Prompt("a person talks", "blurry"), files=files)
    return conditions, Speech(Artifact(str(features), "", 0, "tensors/safetensors"), 20, (None,))


def generate_with_failures(rank: int, folder: Path, records: tuple) -> None:
    """A segment of two windows, once for each failing call and once without; writes each outcome as JSON."""
    torch.set_num_threads(1)
    stage = GenerateStage(generate_settings(parallel="ulysses_2"))
    stage.open(Rank(rank, 2, "cpu", (folder / "rendezvous").as_uri()))
    outcomes = []
    for number, (failing, method, good_calls, error) in enumerate([*FAILING_CALLS, (0, "", 0, None)]):
        root = folder / f"{rank}.{number}"
        files = FailingFiles(root, method, good_calls, error) if failing == rank else LocalFiles(root)
        try:
            outcomes.append([type(part).__name__ for part in stage(*records, files=files)])
        except Exception as failure:  # noqa: BLE001 - every class is compared
            outcomes.append([type(failure).__name__, str(failure), getattr(failure, "errno", None)])
    (folder / f"outcomes.{rank}.json").write_text(json.dumps(outcomes))
    stage.close()


def test_a_failure_on_one_rank_is_raised_on_every_rank(tmp_path, files):
    """No rank waits for the failed one, and the gang can be called again."""
    segment, conditions, speech = segment_of(50), *prepared(tmp_path, segment_of(50), files)
    torch.multiprocessing.spawn(generate_with_failures, (tmp_path, (segment, conditions, speech, Seed(1, "job"))), nprocs=2)
    by_rank = [json.loads((tmp_path / f"outcomes.{rank}.json").read_text()) for rank in range(2)]
    for number, (failing, _, _, error) in enumerate(FAILING_CALLS):
        own, other = by_rank[failing][number], by_rank[1 - failing][number]
        assert own == [type(error).__name__, str(error), getattr(error, "errno", None)]
        if isinstance(error, KeyError):
            assert other == ["RuntimeError", f"rank {failing}: KeyError: {error}", None]
        else:
            assert other[0] == own[0] and f"rank {failing}: {error}" in other[1] and other[2] == own[2]
    assert by_rank[0][-1] == ["Chunk", "Chunk", "Clip"]
    assert by_rank[1][-1] == []


def test_a_long_message_is_cut_between_characters():
    status = encode_status(Transient("ü" * STATUS_BYTES))
    assert len(status) == STATUS_BYTES
    assert str(decode_status(status, 3)) == f"rank 3: {'ü' * ((STATUS_BYTES - 3) // 2)}"
