"""What upstream's weights are called here, and that nothing is loaded by halves."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.dit import InfiniteTalkTransformer
from infinitedub.stages.model.weights.checkpoint import InMemoryCheckpoint, SafetensorsCheckpoint, find_safetensors, open_pickle
from infinitedub.stages.model.weights.keymap import IDENTITY, IMAGE, SAVED_IMAGE, SAVED_SPEECH, SAVED_TEXT, TRANSFORMER, codec_translator, translator
from infinitedub.stages.model.weights.load import build_empty, load_weights, map_sources
from tests.golden.read import facts, golden

CPU = dict(dtype=torch.float32, device="cpu")


# -- names ------------------------------------------------------------------------------------------------------------


def test_all_base_names_of_the_14b_model_are_diffusers():
    translate = translator(TRANSFORMER)
    table = facts("keymap_14b_base_to_diffusers")
    assert len(table) == 1303
    assert {name: translate(name) for name in table} == {name: (ours,) for name, ours in table.items()}


def test_all_tensors_of_the_14b_model_have_a_place_of_their_shape():
    translate = translator(TRANSFORMER)
    released = {translate(name)[0]: torch.Size(shape) for name, shape in facts("keys_14b_upstream").items()}
    assert len(released) == 1633
    with build_empty():
        network = InfiniteTalkTransformer()
    assert {name: parameter.shape for name, parameter in network.named_parameters()} == released


def test_the_decoders_modules_are_counted_by_level():
    translate = codec_translator(residual_blocks=2)
    assert translate("decoder.upsamples.4.shortcut.weight") == ("decoder.up_blocks.1.resnets.0.conv_shortcut.weight",)
    assert translate("decoder.upsamples.7.time_conv.bias") == ("decoder.up_blocks.1.upsamplers.0.time_conv.bias",)
    assert translate("decoder.upsamples.14.residual.6.weight") == ("decoder.up_blocks.3.resnets.2.conv2.weight",)
    assert codec_translator(residual_blocks=1)("decoder.upsamples.5.resample.1.weight") == ("decoder.up_blocks.1.upsamplers.0.resample.1.weight",)


@pytest.mark.parametrize(
    ("table", "name", "targets"),
    [
        (TRANSFORMER, "blocks.7.audio_cross_attn.kv_linear.bias", ("blocks.7.audio_cross_attn.kv_linear.bias",)),
        (TRANSFORMER, "blocks.7.cross_attn.new_thing.bias", None),
        (IMAGE, "textual.transformer.3.mlp.weight", ()),
        (IMAGE, "visual.transformer.3.attn.to_qkv.bias", tuple(f"encoder.layers.3.self_attn.{x}_proj.bias" for x in "qkv")),
        (SAVED_IMAGE, "vision_model.encoder.layers.0.mlp.fc1.weight", ("encoder.layers.0.mlp.fc1.weight",)),
        (SAVED_IMAGE, "vision_model.embeddings.position_ids", ()),
        (SAVED_TEXT, "encoder.embed_tokens.weight", ("shared.weight",)),
        (SAVED_SPEECH, "quantizer.codevectors", ()),
        (SAVED_SPEECH, "wav2vec2.encoder.pos_conv_embed.conv.weight_g", ("encoder.pos_conv_embed.conv.parametrizations.weight.original0",)),
        (SAVED_SPEECH, "wav2vec2.feature_projection.projection.bias", ("feature_projection.projection.bias",)),
    ],
)
def test_names_are_translated(table, name, targets):
    assert translator(table)(name) == targets


# -- strict loading ---------------------------------------------------------------------------------------------------


def small() -> nn.Module:
    with build_empty():
        return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def complete() -> dict[str, torch.Tensor]:
    return {name: torch.randn(shape.shape).to(shape.dtype) for name, shape in nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).state_dict().items()}


def load(tensors: dict[str, torch.Tensor], **how) -> nn.Module:
    network = small()
    load_weights(network, map_sources(InMemoryCheckpoint("memory", tensors), translator(IDENTITY)), **{**CPU, **how})
    return network


def test_every_parameter_and_buffer_is_filled():
    tensors = complete()
    network = load(tensors)
    assert {name: value.tolist() for name, value in network.state_dict().items()} == {name: value.tolist() for name, value in tensors.items()}
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_values_are_rounded_and_those_of_fp32_modules_kept_wide():
    tensors = complete()
    network = load(tensors, dtype=torch.bfloat16, fp32_modules=["0"])
    assert network[0].weight.dtype == torch.float32
    assert torch.equal(network[0].weight, tensors["0.weight"].bfloat16().float())
    assert network[1].weight.dtype == torch.bfloat16
    assert network[1].num_batches_tracked.dtype == torch.int64


def test_everything_that_does_not_fit_is_named():
    tensors = complete()
    del tensors["0.bias"]
    tensors["1.weight"] = torch.zeros(5)
    tensors["stranger"] = torch.zeros(1)
    with pytest.raises(ConfigError) as refusal:
        load(tensors)
    message = str(refusal.value)
    assert "1 missing: 0.bias" in message
    assert "1 surplus: stranger (memory)" in message
    assert "1.weight is (5,), wanted (2,)" in message


def test_long_lists_are_cut():
    tensors = complete() | {f"stranger.{number:02}": torch.zeros(1) for number in range(30)}
    with pytest.raises(ConfigError, match=r"30 surplus: .*stranger\.19 \(memory\) and 10 more"):
        load(tensors)


def test_later_checkpoints_override_earlier_ones():
    base, later = complete(), {"0.bias": torch.full((2,), 7.0)}
    network = small()
    load_weights(
        network,
        map_sources(InMemoryCheckpoint("memory", base), translator(IDENTITY))
        | map_sources(InMemoryCheckpoint("memory", later), translator(IDENTITY)),
        **CPU,
    )
    assert network[0].bias.tolist() == [7.0, 7.0]


def test_one_tensor_may_fill_three_parameters():
    with build_empty():
        network = nn.ModuleDict({name: nn.Linear(2, 2, bias=False) for name in "qkv"})
    whole = torch.arange(12.0).view(6, 2)
    load_weights(network, map_sources(InMemoryCheckpoint("memory", {"qkv.weight": whole}), translator({"qkv.*": ("q.*", "k.*", "v.*")})), **CPU)
    assert torch.equal(torch.cat([network[name].weight for name in "qkv"]), whole)


# -- files ------------------------------------------------------------------------------------------------------------


class Trap:
    """What a malicious checkpoint may hold: unpickling it calls a function."""

    def __reduce__(self):
        return pytest.fail, ("code in a checkpoint was run",)


def test_pickles_run_no_code(tmp_path):
    torch.save({"weight": Trap()}, tmp_path / "bad.pth")
    with pytest.raises(ConfigError, match=r"bad\.pth"):
        open_pickle(tmp_path / "bad.pth")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04N."])
def test_broken_files_are_named(tmp_path, content):
    (tmp_path / "broken").write_bytes(content)
    for reader in (open_pickle, lambda path: SafetensorsCheckpoint([path])):
        with pytest.raises(ConfigError, match="broken"):
            reader(tmp_path / "broken")


def test_a_pickle_of_something_else_is_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ConfigError, match="a mapping from names to tensors"):
        open_pickle(tmp_path / "list.pth")


def test_shards_are_read_as_one(tmp_path):
    tensors = golden("lora")
    names = sorted(tensors)
    for number, part in enumerate((names[:5], names[5:]), start=1):
        save_file({name: tensors[name] for name in part}, tmp_path / f"model-{number:05}-of-00002.safetensors")
    checkpoint = find_safetensors(tmp_path, "model")
    assert sorted(checkpoint) == names
    for name in names:
        assert checkpoint.shape(name) == tensors[name].shape
        assert torch.equal(checkpoint.read(name), tensors[name])


def test_a_missing_shard_is_noticed(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "model-00001-of-00003.safetensors")
    with pytest.raises(ConfigError, match=r"2 of 3 files of model are missing: model-00002-of-00003\.safetensors, model-00003"):
        find_safetensors(tmp_path, "model")
