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
        (("diffusion_model.", "base_model.model."), ("lora_down", "lora_A"), ("lora_up", "lora_B")),
        (("diffusion_model.", ""), ("lora_down.weight", "lora_A.default.weight"), ("lora_up.weight", "lora_B.default.weight")),
    ],
    ids=["release", "A and B", "no prefix", "diffusers", "PEFT", "PEFT with the adapter's name"],
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


KOHYA = {
    "blocks.0.self_attn.q": "blocks.0.attn1.to_q.weight",
    "blocks.12.cross_attn.k_img": "blocks.12.attn2.add_k_proj.weight",
    "blocks.3.ffn.2": "blocks.3.ffn.net.2.weight",
    "blocks.1.audio_cross_attn.q_linear": "blocks.1.audio_cross_attn.q_linear.weight",
    "time_projection.1": "condition_embedder.time_proj.weight",
    "head.head": "proj_out.weight",
    "patch_embedding": "patch_embedding.weight",
    "audio_proj.proj1_vf": "audio_proj.proj1_vf.weight",
    "blocks.2.attn2.to_out.0": "blocks.2.attn2.to_out.0.weight",  # with the names of diffusers
}


@pytest.mark.parametrize(("module", "parameter"), KOHYA.items(), ids=KOHYA)
def test_the_names_of_kohya_are_read(tmp_path, module, parameter):
    down, up, name = torch.randn(2, 6), torch.randn(5, 2), f"lora_unet_{module.replace('.', '_')}"
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)}
    merged = open_saved(tmp_path, tensors).merge(parameter, torch.zeros(5, 6))
    assert torch.allclose(merged, 1 / 2 * up @ down, atol=1e-6)


STRANGERS = [
    "blocks.0.self_attn.q.hada_w1_a",
    "blocks.0.ffn.0.lora_down.weight",
    "blocks.0.ffn.0.alpha",
    "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
    "lycoris_blocks_0_self_attn_q.lokr_w1",
]


@pytest.mark.parametrize("stranger", STRANGERS)
def test_what_is_not_understood_is_named_with_the_forms_that_are(tmp_path, stranger):
    tensors = {stranger: torch.zeros(2, 2)}
    if stranger.startswith("lora_"):
        tensors[stranger.replace("down.weight", "up.weight")] = torch.zeros(2, 2)
    with pytest.raises(ConfigError, match=f"not understood: {stranger}") as refusal:
        open_saved(tmp_path, tensors)
    for form in ("lora_down.weight", "lora_A.weight", "base_model.model.", "lora_unet_", ".diff_b"):
        assert form in str(refusal.value)


def test_matrices_of_two_ranks_are_refused(tmp_path):
    tensors = {"head.head.lora_down.weight": torch.zeros(2, 6), "head.head.lora_up.weight": torch.zeros(5, 3)}
    with pytest.raises(ConfigError, match=r"head\.head\.lora_up\.weight"):
        open_saved(tmp_path, tensors)


def test_a_quantised_lora_is_refused(tmp_path):
    tensors = {"head.head.lora_down.weight": torch.zeros(2, 6).char(), "head.head.lora_up.weight": torch.zeros(5, 2).char()}
    with pytest.raises(ConfigError, match="int8 without scales"):
        open_saved(tmp_path, tensors)


# -- whether it fits --------------------------------------------------------------------------------------------------


def test_a_lora_of_another_model_is_refused(tmp_path):
    lora = open_saved(tmp_path, released())
    shapes = {change.parameter: change.shape for change in lora.changes}
    assert lora.fitted(shapes) == lora
    with pytest.raises(ConfigError, match=r"blocks\.0\.ffn\.net\.2\.weight \(64, 96\)"):
        lora.fitted(shapes | {"blocks.0.ffn.net.2.weight": torch.Size([64, 97])})
    with pytest.raises(ConfigError, match="does not fit"):
        lora.fitted({})


@pytest.mark.parametrize("low_rank", [False, True], ids=["diff", "low rank"])
def test_of_a_text_to_video_lora_all_but_the_patch_embedding_is_merged(tmp_path, low_rank):
    """The patch embedding of text to video has 16 input channels, the latents; image to video has 36, with mask and reference."""
    bias, down, up = torch.randn(8), torch.randn(2, 6), torch.randn(5, 2)
    tensors = {"patch_embedding.diff_b": bias, "head.head.lora_down.weight": down, "head.head.lora_up.weight": up}
    if low_rank:
        tensors |= {"patch_embedding.lora_down.weight": torch.randn(2, 16, 1, 2, 2), "patch_embedding.lora_up.weight": torch.randn(8, 2, 1, 1, 1)}
    else:
        tensors |= {"patch_embedding.diff": torch.randn(8, 16, 1, 2, 2)}
    lora = open_saved(tmp_path, tensors)
    shapes = {"patch_embedding.weight": torch.Size([8, 36, 1, 2, 2]), "patch_embedding.bias": torch.Size([8]), "proj_out.weight": torch.Size([5, 6])}
    fitted, weight = lora.fitted(shapes), torch.randn(8, 36, 1, 2, 2)
    assert fitted.merge("patch_embedding.weight", weight) is weight
    assert torch.equal(fitted.merge("patch_embedding.bias", torch.zeros(8)), bias)
    assert torch.allclose(fitted.merge("proj_out.weight", torch.zeros(5, 6)), up @ down, atol=1e-6)
    with pytest.raises(ConfigError, match=r"patch_embedding\.weight \(8, 16, 1, 2, 2\)"):  # another width is another model
        lora.fitted(shapes | {"patch_embedding.weight": torch.Size([9, 36, 1, 2, 2])})
