"""A small model on disk in the layout of the release, made of golden weights."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Wav2Vec2Config, Wav2Vec2Model

from tests.golden.read import facts, weights

TINY = Path(__file__).resolve().parents[2] / "assets" / "tiny_bundle"
AUDIO_PARTS = ("audio_proj.", "audio_cross_attn.", ".norm_x.")
CONFIG_NAMES = ("dim", "ffn_dim", "freq_dim", "in_dim", "num_heads", "num_layers", "out_dim", "text_len", "eps", "model_type")


def tensors_of(name: str) -> dict[str, torch.Tensor]:
    return dict(weights(name).tensors)


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_speech(folder: Path) -> None:
    """Writes a wav2vec2 encoder of the size that the golden denoiser needs."""
    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, conv_dim=[8] * 7, num_conv_pos_embedding_groups=4
    )
    write_json(folder / "config.json", config.to_dict())
    write_json(folder / "preprocessor_config.json", {"do_normalize": True, "sampling_rate": 16000})
    torch.manual_seed(0)
    save_file({name: value.detach().clone() for name, value in Wav2Vec2Model(config).named_parameters()}, folder / "model.safetensors")


def write_release(root: Path) -> Path:
    """Writes every file of the release into the folder `root`, and returns it."""
    sizes = facts("dit_single")["constructor"]
    write_json(root / "config.json", {"_class_name": "WanModel"} | {name: sizes[name] for name in CONFIG_NAMES})
    tensors = tensors_of("dit_single")
    audio = {name: tensor for name, tensor in tensors.items() if any(part in name for part in AUDIO_PARTS)}
    base = sorted(tensors.keys() - audio.keys())
    for number, names in enumerate((base[:40], base[40:]), start=1):
        save_file({name: tensors[name] for name in names}, root / f"diffusion_pytorch_model-{number:05}-of-00002.safetensors")
    (root / "single").mkdir()
    save_file(audio, root / "single" / "infinitetalk.safetensors")
    torch.save(tensors_of("vae"), root / "Wan2.1_VAE.pth")
    torch.save(tensors_of("t5"), root / "models_t5_umt5-xxl-enc-bf16.pth")
    clip = tensors_of("clip") | {"textual.token_embedding": torch.zeros(1), "log_scale": torch.zeros([])}
    torch.save(clip, root / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")
    shutil.copytree(TINY / "tokenizer", root / "google" / "umt5-xxl")
    write_speech(root / "speech")
    return root
