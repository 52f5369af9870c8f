"""The memory model of InfiniteTalk against networks of true size on the meta device."""

from types import SimpleNamespace

import pytest
from diffusers import AutoencoderKLWan
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from infinitedub.stages.engines.device_bytes import GIB
from infinitedub.stages.engines.infinitetalk import memory
from infinitedub.stages.engines.infinitetalk.memory import device_bytes
from infinitedub.stages.engines.registry import ENGINES
from infinitedub.stages.model.dit import InfiniteTalkTransformer
from infinitedub.stages.model.weights.load import build_empty, within

PIXELS_480, PIXELS_720 = 640 * 640, 960 * 960


def test_the_weights_are_those_of_networks_of_true_size() -> None:
    with build_empty():
        transformer = InfiniteTalkTransformer()
        codec = AutoencoderKLWan()
        text = UMT5EncoderModel(
            UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")
        )
        image = CLIPVisionModel(
            CLIPVisionConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, patch_size=14)
        )
    sizes = {name: value.numel() * (4 if within(name, transformer.fp32_modules) else 2) for name, value in transformer.named_parameters()}
    assert sum(sizes.values()) / GIB == pytest.approx(memory.TRANSFORMER, rel=0.01)
    assert sum(size for name, size in sizes.items() if within(name, ["blocks"])) / GIB == pytest.approx(memory.BLOCKS, rel=0.01)
    assert sum(value.numel() for value in codec.parameters()) * 4 / GIB == pytest.approx(memory.CODEC, rel=0.1)
    layers = sum(value.numel() for value in text.encoder.block.parameters()) * 2
    embedding, rest = text.shared.weight.numel() * 2, sum(value.numel() for value in text.encoder.final_layer_norm.parameters()) * 2
    assert layers / GIB == pytest.approx(memory.TEXT_LAYERS, rel=0.01)
    assert (layers + embedding + rest) / GIB == pytest.approx(memory.TEXT_ENCODER, rel=0.01)
    assert sum(value.numel() for value in image.parameters()) * 2 / GIB == pytest.approx(memory.IMAGE_ENCODER, rel=0.05)


@pytest.mark.parametrize(("pixels", "condition", "generate"), [(PIXELS_480, 19, 44), (PIXELS_720, 26, 54)])
def test_the_peaks_are_those_traced_on_meta_tensors(pixels: int, condition: float, generate: float) -> None:
    """Traced once with the networks of true size; the reserve is not in the trace."""
    peaks = device_bytes(pixels, "bf16", 1)
    assert peaks.condition / GIB - memory.RESERVE == pytest.approx(condition, rel=0.05)
    assert peaks.generate / GIB - memory.RESERVE == pytest.approx(generate, rel=0.05)


def test_480p_shares_a_card_of_80_gb_and_720p_does_not() -> None:
    card = 79 * GIB
    shared = {pixels: (peaks := device_bytes(pixels, "bf16", 1)).condition + peaks.generate for pixels in (PIXELS_480, PIXELS_720)}
    assert shared[PIXELS_480] < card < shared[PIXELS_720]


def test_low_memory_mode_fits_a_card_of_24_gb() -> None:
    for pixels in (PIXELS_480, PIXELS_720):
        peaks = device_bytes(pixels, "bf16", 1, low_memory=True)
        assert max(peaks.condition, peaks.generate) < 23.5 * GIB


def test_the_largest_frames_of_the_model_count() -> None:
    settings = SimpleNamespace(
        model=SimpleNamespace(buckets={1.0: (640, 640), 4.0: (1280, 320)}),
        precision=SimpleNamespace(dtype="bf16"),
        parallel=SimpleNamespace(degree=2),
    )
    assert ENGINES["infinitetalk"].device_bytes(settings) == device_bytes(640 * 640, "bf16", 2)  # type: ignore[arg-type]
    assert ENGINES["test_pattern"].device_bytes(settings) is None  # type: ignore[arg-type]
