"""Writes a toy model with random weights in the layout of the real one.

    python -m infinitedub.assets.tiny_bundle.make OUT

The same seed gives the same files, bit for bit. Networks, loaders and file names are the product's own; only the sizes are small.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel, Wav2Vec2Config, Wav2Vec2Model

from infinitedub.stages.model.dit import InfiniteTalkTransformer
from infinitedub.stages.model.shards import SingleDevice

SEED = 20260101
AUDIO_NAMES = ("audio_proj.", ".audio_cross_attn.", ".norm_x.")

TRANSFORMER = dict(
    num_attention_heads=4,
    attention_head_dim=24,
    in_channels=36,
    out_channels=16,
    text_dim=32,
    freq_dim=64,
    ffn_dim=192,
    num_layers=2,
    eps=1e-6,
    image_dim=32,
)
AUDIO = dict(audio_window=5, vae_scale=4, audio_blocks=3, audio_channels=64, intermediate_dim=48, context_tokens=8, output_dim=64)
CODEC = dict(base_dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1, temperal_downsample=[False, True, True])
TEXT = dict(
    vocab_size=259, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu", dropout_rate=0.0, layer_norm_epsilon=1e-6
)
IMAGE = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=224, patch_size=14, hidden_act="gelu")
SPEECH = dict(
    hidden_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=128,
    conv_dim=[32, 32, 32, 32, 32, 32, 64],
    conv_bias=False,
    feat_extract_norm="group",
    do_stable_layer_norm=False,
    num_conv_pos_embeddings=32,
    num_conv_pos_embedding_groups=4,
    vocab_size=32,
)


def main(out: Path) -> None:
    """Writes the whole bundle below `out`."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # the order of additions, and so the last bits of what is measured, must not depend on the machine

    write_transformer(transformer(), TRANSFORMER, out)
    write_codec(out / "vae")
    write(out / "text_encoder", "model", UMT5EncoderModel(UMT5Config(**TEXT)), UMT5Config(**TEXT).to_dict())
    write(out / "image_encoder", "model", CLIPVisionModel(CLIPVisionConfig(**IMAGE)), CLIPVisionConfig(**IMAGE).to_dict())
    write(out / "wav2vec2", "model", Wav2Vec2Model(Wav2Vec2Config(**SPEECH)), Wav2Vec2Config(**SPEECH).to_dict())
    write_json(out / "wav2vec2" / "preprocessor_config.json", dict(do_normalize=True, feature_size=1, padding_value=0.0, sampling_rate=16000))
    byte_tokenizer().save_pretrained(out / "tokenizer")


def transformer() -> InfiniteTalkTransformer:
    """A denoiser whose flow is as large as a trained one's."""
    network = InfiniteTalkTransformer(**TRANSFORMER, **AUDIO).eval()
    with torch.no_grad():
        network.proj_out.weight /= flow_size(network)
    return network


def write_transformer(network: InfiniteTalkTransformer, sizes: dict[str, float], out: Path) -> None:
    """The base into transformer/, with `sizes` for its configuration; what InfiniteTalk adds into infinitetalk.safetensors."""
    weights = halved(network)
    audio = {name: weight for name, weight in weights.items() if any(part in name for part in AUDIO_NAMES)}
    base = {name: weight for name, weight in weights.items() if name not in audio}
    folder = out / "transformer"
    write_json(folder / "config.json", dict(_class_name="WanTransformer3DModel", **sizes))
    save_file(base, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    save_file(audio, out / "infinitetalk.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def flow_size(network: InfiniteTalkTransformer) -> float:
    """The standard deviation of the flow that `network` makes of noise; a trained one's is about 1."""
    sizes = network.config
    told = network.embed(
        torch.randn(1, 16, sizes.text_dim), torch.randn(1, 257, sizes.image_dim), torch.randn(1, 5, 5, sizes.audio_blocks, sizes.audio_channels)
    )
    return float(network(torch.randn(1, 36, 2, 8, 8), torch.tensor([500.0]), told, None, shards=SingleDevice()).std())


@torch.no_grad()
def write_codec(folder: Path) -> None:
    """The autoencoder, with latents of mean 0 and deviation 1 and pictures that use their range without clipping."""
    network = AutoencoderKLWan(**CODEC).eval()
    frames = torch.nn.functional.interpolate(torch.rand(1, 3, 5, 8, 8) * 2 - 1, size=(5, 64, 64), mode="trilinear")
    latents = network.encode(frames).latent_dist.mode()
    mean, std = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4)).clamp(min=1e-3)
    noise = torch.randn_like(latents) * std.view(1, -1, 1, 1, 1) + mean.view(1, -1, 1, 1, 1)
    pictures = network.decode(noise).sample
    last = network.decoder.conv_out
    last.weight *= 0.3 / pictures.std()
    last.bias.zero_()
    latent_scale = dict(latents_mean=[round(float(value), 4) for value in mean], latents_std=[round(float(value), 4) for value in std])
    write(folder, "diffusion_pytorch_model", network, dict(_class_name="AutoencoderKLWan", **CODEC, **latent_scale))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and an end mark: any prompt in any language, without a vocabulary to learn."""
    special = ["<pad>", "</s>", "<unk>"]
    vocabulary = {token: number for number, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512)


def write(folder: Path, stem: str, network: nn.Module, config: dict[str, object]) -> None:
    """A network's configuration and half-precision weights."""
    write_json(folder / "config.json", config)
    save_file(halved(network), folder / f"{stem}.safetensors", metadata={"format": "pt"})


def halved(network: nn.Module) -> dict[str, Tensor]:
    """The parameters in float16, each once."""
    return {name: parameter.detach().half().contiguous() for name, parameter in network.named_parameters()}


def write_json(path: Path, content: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
