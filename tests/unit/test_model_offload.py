"""The low-memory profile: weights wait in host memory, and the frames are the same to the bit."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from infinitedub.stages.condition.stage import ConditionStage
from infinitedub.stages.contract import Rank
from infinitedub.stages.generate.stage import GenerateStage
from infinitedub.stages.media.video_io import read_all
from infinitedub.stages.model.offload import LayerWeights, offload
from infinitedub.stages.records import Artifact, Prompt, Seed, Speech
from tests.unit.tiny import condition_settings, generate_settings, segment_of, source_of


class Seen(nn.Linear):
    """A layer that notes where its weights are while it computes."""

    places: list[int]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.places.append(self.weight.data_ptr())
        if x.isnan().any():
            raise FloatingPointError("NaN")
        return super().forward(x)


def layers_of(n: int) -> list[Seen]:
    layers = [Seen(4, 4) for _ in range(n)]
    for layer in layers:
        layer.places = []
    return layers


def test_weights_are_guests_while_their_layer_computes():
    layers = layers_of(2)
    network, x = nn.Sequential(*layers), torch.ones(1, 4)
    wanted = network(x)
    before = [layer.weight.data.clone() for layer in layers]
    offload(layers, "cpu")
    homes = [layer.weight.data_ptr() for layer in layers]
    with torch.inference_mode():
        assert torch.equal(network(x), wanted)
    assert torch.equal(network(x), wanted)
    for layer, home, values in zip(layers, homes, before, strict=True):
        assert layer.weight.data_ptr() == home  # gone again
        assert home not in layer.places[1:]  # and elsewhere meanwhile
        assert torch.equal(layer.weight.data, values)


def test_the_next_layer_is_prefetched_and_at_most_two_are_there():
    layers = layers_of(3)
    offload(layers, "cpu")
    network = nn.Sequential(*layers)
    held: list[int] = []
    slots = [hook.__self__._own for layer in layers for hook in layer._forward_pre_hooks.values()]
    for layer in layers:
        layer.register_forward_hook(lambda *_: held.append(sum(slot._copy is not None for slot in slots)))
    for _ in range(2):
        network(torch.ones(1, 4))
    assert held == [1] * 6  # after each layer, its own weights are gone and the next layer's are there


def test_the_copy_of_the_next_layer_waits_for_the_layer_before(monkeypatch: pytest.MonkeyPatch):
    layers, order = layers_of(3), []
    offload(layers, "cpu")
    slots = [hook.__self__._own for layer in layers for hook in layer._forward_pre_hooks.values()]
    prefetch = LayerWeights.prefetch
    monkeypatch.setattr(LayerWeights, "wait_until_computed", lambda self: order.append(("wait", slots.index(self))))
    monkeypatch.setattr(LayerWeights, "prefetch", lambda self: (order.append(("copy", slots.index(self))), prefetch(self)))
    nn.Sequential(*layers)(torch.ones(1, 4))
    waits = [order[index : index + 2] for index, (what, _) in enumerate(order) if what == "wait"]
    assert waits == [[("wait", 2), ("copy", 1)], [("wait", 0), ("copy", 2)], [("wait", 1), ("copy", 0)]]


def test_layers_may_be_called_in_any_order():
    layers, x = layers_of(3), torch.ones(1, 4)
    wanted = [layer(x) for layer in layers]
    offload(layers, "cpu")
    for number in (2, 0, 0, 1, 2):
        assert torch.equal(layers[number](x), wanted[number])


def test_weights_of_several_types_share_a_buffer():
    layer = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7).double(), nn.BatchNorm1d(7).double())
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    offload([layer], "cpu")
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert len({value.untyped_storage().data_ptr() for value in layer.state_dict().values()}) == 1


def test_a_layer_that_fails_leaves_as_well():
    (layer,) = layers_of(1)
    offload([layer], "cpu")
    home = layer.weight.data_ptr()
    with pytest.raises(FloatingPointError):
        layer(torch.full((1, 4), torch.nan))
    assert layer.weight.data_ptr() == home


def test_conditions_and_frames_are_the_same_with_little_memory(files, tmp_path, monkeypatch):
    sent: list[int] = []

    def counted(layers: nn.ModuleList, device: torch.device | str) -> None:
        sent.append(len(layers))
        offload(layers, device)

    monkeypatch.setattr("infinitedub.stages.model.weights.bundle.offload", counted)
    photograph, features = tmp_path / "face.png", tmp_path / "speech.safetensors"
    Image.fromarray(np.random.default_rng(0).integers(60, 200, (64, 64, 3), np.uint8)).save(photograph)
    save_file({"speaker_0": torch.randn(20, 3, 64, generator=torch.Generator().manual_seed(5)), "silence": torch.zeros(3, 64)}, features)
    speech = Speech(Artifact(str(features), "", 0, "tensors/safetensors"), 20, (None,))
    source, segment = source_of(photograph, width=64, height=64), segment_of(20)
    told, frames = [], []
    for rank in (Rank(), Rank(low_memory=True)):
        prepares = ConditionStage(condition_settings())
        prepares.open(rank)
        conditions = prepares(source, segment, Prompt("a person talks", "blurry"), files=files)
        told.append(load_file(files.fetch(conditions.tensors)))
        makes = GenerateStage(generate_settings())
        makes.open(rank)
        chunk, _ = makes(segment, conditions, speech, Seed(1, "job"), files=files)
        frames.append(np.stack(list(read_all(files.fetch(chunk.picture)))))
        makes.close()
        files.remembered.clear()
    assert len(sent) == 2  # of the second rank: the text encoder's layers and the denoiser's blocks
    assert all(torch.equal(told[0][name], told[1][name]) for name in told[0])
    assert np.array_equal(frames[0], frames[1])
    assert frames[0].std() > 1
