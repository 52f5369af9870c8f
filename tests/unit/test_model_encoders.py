"""The encoders against what the release computes."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5EncoderModel, Wav2Vec2Config, Wav2Vec2Model

from infinitedub.stages.errors import BadInput, ConfigError
from infinitedub.stages.model.image_encoder import ImageEncoder, preprocess
from infinitedub.stages.model.latent_codec import LatentCodec
from infinitedub.stages.model.speech_encoder import FeatureChunk, SpeechEncoder, interpolate_features, plan_chunks
from infinitedub.stages.model.text_encoder import TextEncoder, clean_prompt
from infinitedub.stages.model.weights.keymap import IMAGE, SAVED_SPEECH, TEXT, codec_translator, translator
from infinitedub.stages.model.weights.load import build_empty, load_weights, map_sources
from infinitedub.stages.model.weights.sizes import codec_sizes, text_config
from infinitedub.stages.records import Span
from tests.golden.read import facts, golden, weights

CPU = dict(dtype=torch.float32, device="cpu")


# -- latents ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codec() -> LatentCodec:
    checkpoint = weights("vae")
    sizes = codec_sizes(checkpoint)
    assert sizes["base_dim"] == facts("vae")["dim"]
    assert sizes["dim_mult"] == facts("vae")["dim_mult"]
    assert sizes["temperal_downsample"] == facts("vae")["temperal_downsample"]
    with build_empty():
        network = AutoencoderKLWan(**sizes)
    load_weights(network, map_sources(checkpoint, codec_translator(sizes["num_res_blocks"])), **CPU)
    return LatentCodec(network)


@pytest.mark.parametrize("case", ["a", "b"])
def test_latents_are_the_releases(codec, case):
    tensors = golden("vae")
    made = codec.encode(tensors[f"{case}.in.video"])
    assert torch.allclose(made[0], tensors[f"{case}.out.mu_normalised"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["a", "b"])
def test_frames_are_the_releases(codec, case):
    tensors = golden("vae")
    made = codec.decode(tensors[f"{case}.in.z"][None])
    assert torch.allclose(made[0], tensors[f"{case}.out.decoded"], rtol=0, atol=1e-5)
    assert made.abs().max() <= 1


@pytest.mark.parametrize("shape", [(8, 16, 24), (5, 20, 24), (5, 16, 20), (0, 16, 24)])
def test_frames_that_would_be_dropped_in_silence_are_refused(codec, shape):
    with pytest.raises(ValueError, match="4n\\+1"):
        codec.encode(torch.zeros(1, 3, *shape))


def test_an_autoencoder_of_other_factors_is_refused():
    with pytest.raises(ConfigError, match="4 in space"):
        LatentCodec(AutoencoderKLWan(base_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[True, True]))


# -- text -------------------------------------------------------------------------------------------------------------


class Ids:
    """A tokenizer that knows one prompt."""

    def __init__(self, ids: torch.Tensor) -> None:
        self.input_ids = ids

    def __call__(self, *_, **__):
        return self


@pytest.mark.parametrize(("row", "length"), [(0, 40), (1, 9)])
def test_text_states_are_the_releases(row, length):
    checkpoint, tensors = weights("t5"), golden("t5")
    with build_empty():
        network = UMT5EncoderModel(text_config(checkpoint))
        network.encoder.embed_tokens = network.shared
    load_weights(network, map_sources(checkpoint, translator(TEXT)), **CPU)
    made = TextEncoder(network, Ids(tensors["in.ids"][row : row + 1, :length]))("a prompt")
    assert torch.allclose(made, tensors[f"out.ctx{row}"], rtol=0, atol=2e-5)


def test_prompts_are_cleaned():
    assert clean_prompt("  Tom &amp;amp; Jerry\n\ttalk &lt;b&gt; cafÃ© ") == "Tom & Jerry talk <b> café"


# -- image ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["a", "b"])
def test_picture_tokens_are_the_releases(case):
    tensors, sizes = golden("clip"), facts("clip")
    with build_empty():
        network = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=sizes["dim"],
                intermediate_size=4 * sizes["dim"],
                num_hidden_layers=sizes["layers"],
                num_attention_heads=sizes["heads"],
                image_size=224,
                patch_size=14,
                hidden_act="gelu",
                layer_norm_eps=1e-5,
            )
        )
    load_weights(network, map_sources(weights("clip"), translator(IMAGE)), **CPU)
    frame = tensors[f"{case}.in.image"][:, :, 0]
    assert torch.allclose(preprocess(frame, 224), tensors[f"{case}.pixel_values"], rtol=0, atol=1e-5)
    assert torch.allclose(ImageEncoder(network)(frame), tensors[f"{case}.out"], rtol=0, atol=1e-5)


# -- speech -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hearing() -> SpeechEncoder:
    sizes = {key: value for key, value in facts("wav2vec")["config"].items() if key != "attn_implementation"}
    sizes |= {"mask_time_prob": 0.0}
    with build_empty():
        network = Wav2Vec2Model(Wav2Vec2Config(**sizes))
    load_weights(network, map_sources(weights("wav2vec"), translator(SAVED_SPEECH)), **CPU)
    return SpeechEncoder(network, normalise=facts("wav2vec")["feature_extractor"]["do_normalize"])


def voice(seconds: float) -> np.ndarray:
    """A hum that rises and falls, with a little noise: the same for the same length."""
    time = np.arange(round(seconds * 16000)) / 16000
    noise = np.random.default_rng(5).standard_normal(len(time)) * 0.02
    return ((0.3 + 0.2 * np.sin(9 * time)) * np.sin(2 * np.pi * (180 + 40 * np.sin(3 * time)) * time) + noise).astype(np.float32)


@pytest.mark.parametrize("case", [0, 1, 2])
def test_speech_features_are_the_releases(hearing, case):
    tensors = golden("wav2vec")
    made = hearing(tensors[f"{case}.in.speech"].numpy())
    assert made.shape == tensors[f"{case}.out.audio_emb"].shape
    assert torch.allclose(made, tensors[f"{case}.out.audio_emb"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("rows", [1, 24, 25, 37, 60])
def test_features_are_read_between_neighbours_as_the_release_does(rows):
    tensors = golden("utils")
    made = interpolate_features(tensors["interp.in"].transpose(1, 2), torch.linspace(0, 48, rows, dtype=torch.float64))
    assert torch.allclose(made.transpose(1, 2), tensors[f"interp.{rows}.out"], rtol=0, atol=1e-5)


def test_every_whole_frame_gets_a_row(hearing):
    assert len(hearing(voice(29 * 640 / 16000))) == 29  # int(29 * 640 / 16000 * 25) is 28
    assert len(hearing(voice(1.0), frames=30)) == 30


@pytest.mark.parametrize("samples", [0, 399, 639])
def test_speech_of_less_than_a_frame_is_refused(hearing, samples):
    with pytest.raises(BadInput, match=f"{samples} samples"):
        hearing(np.zeros(samples, np.float32))


def test_silence_gives_numbers(hearing):
    assert hearing(np.zeros(16000, np.float32)).isfinite().all()


def test_one_chunk_is_the_plain_call(hearing):
    samples = voice(2.51)
    (piece,) = hearing.encode_in_chunks(samples, chunk_seconds=3, context_seconds=1)
    assert torch.equal(piece, hearing(samples))


def test_chunks_follow_each_other_without_gaps(hearing):
    samples = voice(10.3)
    pieces = list(hearing.encode_in_chunks(samples, chunk_seconds=2, context_seconds=1))
    assert [len(piece) for piece in pieces] == [50, 50, 50, 50, 50, 7]
    made, whole = torch.cat(pieces), hearing(samples)
    assert made.shape == whole.shape
    assert torch.nn.functional.cosine_similarity(made.flatten(1), whole.flatten(1)).min() > 0.99


def test_more_context_comes_closer_to_the_whole(hearing):
    samples = voice(12)
    whole = hearing(samples)
    errors = [(torch.cat(list(hearing.encode_in_chunks(samples, 3, context))) - whole).abs().mean() for context in (0, 3)]
    assert errors[1] < errors[0] / 2


def test_a_silent_piece_stays_silent(hearing):
    """wav2vec2's first norm takes its moments over time, and would blow up the hiss of a piece in which nobody speaks."""
    samples = voice(12)
    samples[4 * 16000 : 8 * 16000] *= 0.001
    made, whole = torch.cat(list(hearing.encode_in_chunks(samples, chunk_seconds=2, context_seconds=0))), hearing(samples)
    quiet = slice(110, 190)
    likeness = torch.nn.functional.cosine_similarity(made[quiet].flatten(1), whole[quiet].flatten(1))
    assert likeness.mean() > 0.99  # 0.64 with the norm left alone


def test_the_encoder_is_as_before_after_chunks(hearing):
    samples = voice(3)
    before = hearing(samples)
    for _ in hearing.encode_in_chunks(voice(9), chunk_seconds=2, context_seconds=1):
        assert torch.equal(hearing(samples), before)  # between two pieces as well


def test_pieces_cover_every_frame_once():
    assert plan_chunks(10, 4, 2) == (
        FeatureChunk(Span(0, 4), Span(0, 6)),
        FeatureChunk(Span(4, 8), Span(2, 10)),
        FeatureChunk(Span(8, 10), Span(6, 10)),
    )


def test_a_chunk_shorter_than_a_frame_is_refused(hearing):
    with pytest.raises(ConfigError, match=r"0\.01 s"):
        list(hearing.encode_in_chunks(voice(1), chunk_seconds=0.01, context_seconds=1))
