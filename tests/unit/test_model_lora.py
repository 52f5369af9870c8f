"""LoRAs against what the release merges."""

import pytest
import torch
from safetensors.torch import save_file

from infinitedub.stages.errors import ConfigError
from infinitedub.stages.model.weights.keymap import TRANSFORMER, translator
from infinitedub.stages.model.weights.lora import Lora, open_lora
from tests.golden.read import facts, golden

UPSTREAM = translator(TRANSFORMER)


def released() -> dict[str, torch.Tensor]:
    return {key.removeprefix("lora."): tensor for key, tensor in golden("lora").items() if key.startswith("lora.")}


def open_saved(tmp_path, tensors: dict[str, torch.Tensor], strength: float = 1.0, compat_upstream: bool = False) -> Lora:
    save_file(tensors, tmp_path / "lora.safetensors")
    return open_lora(tmp_path / "lora.safetensors", strength, UPSTREAM, compat_upstream)


def renamed(tensors: dict[str, torch.Tensor], *pairs: tuple[str, str]) -> dict[str, torch.Tensor]:
    for old, new in pairs:
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    return tensors


@pytest.mark.parametrize(
    "names",
    [
        (),
        (("lora_down", "lora_A"), ("lora_up", "lora_B")),
        (("diffusion_model.", ""),),
        (("diffusion_model.", "transformer."), ("self_attn.q", "attn1.to_q")),
    ],
    ids=["release", "A and B", "no prefix", "diffusers"],
)
def test_the_release_is_repeated(tmp_path, names):
    lora = open_saved(tmp_path, renamed(released(), *names), facts("lora")["scale"], compat_upstream=True)
    for name in facts("lora")["changed"]:
        before, after = golden("lora")[f"before.{name}"], golden("lora")[f"after.{name}"]
        merged = lora.merge(UPSTREAM(name)[0], before)
        assert torch.allclose(merged, after, rtol=0, atol=1e-6), name
        assert not torch.allclose(merged, before, atol=1e-3), name


def test_other_weights_stay_as_they_are(tmp_path):
    lora, weight = open_saved(tmp_path, released()), torch.randn(64)
    assert lora.merge("blocks.1.attn1.to_q.bias", weight) is weight


def test_alpha_counts_unless_the_release_is_to_be_repeated(tmp_path):
    down, up = torch.randn(4, 6), torch.randn(5, 4)
    tensors = {"blocks.0.ffn.0.lora_down.weight": down, "blocks.0.ffn.0.lora_up.weight": up, "blocks.0.ffn.0.alpha": torch.tensor(2.0)}
    weight, name = torch.zeros(5, 6), "blocks.0.ffn.net.0.proj.weight"
    assert torch.allclose(open_saved(tmp_path, tensors, 3.0).merge(name, weight), 3 * 2 / 4 * up @ down, atol=1e-5)  # the sums are in another order
    assert torch.allclose(open_saved(tmp_path, tensors, 3.0, compat_upstream=True).merge(name, weight), 3 * up @ down, atol=1e-5)


def test_convolutions_and_modulations_are_changed_too(tmp_path):
    down, up, shift = torch.randn(2, 36, 1, 2, 2), torch.randn(8, 2, 1, 1, 1), torch.randn(1, 6, 8)
    tensors = {"patch_embedding.lora_down.weight": down, "patch_embedding.lora_up.weight": up, "blocks.0.diff_m": shift}
    lora = open_saved(tmp_path, tensors)
    merged = lora.merge("patch_embedding.weight", torch.zeros(8, 36, 1, 2, 2))
    assert torch.allclose(merged.flatten(1), up.flatten(1) @ down.flatten(1), atol=1e-6)
    assert torch.equal(lora.merge("blocks.0.scale_shift_table", torch.zeros(1, 6, 8)), shift)


def test_a_product_and_a_difference_of_one_weight_add_up(tmp_path):
    down, up, difference = torch.randn(2, 6), torch.randn(5, 2), torch.randn(5, 6)
    tensors = {"head.head.lora_down.weight": down, "head.head.lora_up.weight": up, "head.head.diff": difference}
    assert torch.allclose(open_saved(tmp_path, tensors).merge("proj_out.weight", torch.zeros(5, 6)), up @ down + difference)


@pytest.mark.parametrize("stranger", ["blocks.0.self_attn.q.hada_w1_a", "blocks.0.ffn.0.lora_down.weight", "blocks.0.ffn.0.alpha"])
def test_what_is_not_understood_is_named(tmp_path, stranger):
    with pytest.raises(ConfigError, match=stranger):
        open_saved(tmp_path, {stranger: torch.zeros(2, 2)})


def test_a_lora_of_another_model_is_refused(tmp_path):
    lora = open_saved(tmp_path, released())
    shapes = {name: change.shape for name, change in lora.updates}
    lora.check_shapes(shapes)
    with pytest.raises(ConfigError, match=r"blocks\.0\.ffn\.net\.2\.weight \(64, 96\)"):
        lora.check_shapes(shapes | {"blocks.0.ffn.net.2.weight": torch.Size([64, 97])})
    with pytest.raises(ConfigError, match="does not fit"):
        lora.check_shapes({})
