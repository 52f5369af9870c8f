"""What a prompt means: the umT5 encoder and its tokenizer."""

import html
import re

import ftfy
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

MAX_TOKENS = 512  # what the denoiser was trained with; the rest of a longer prompt is not heard


class TextEncoder:
    """Prompts to text states."""

    def __init__(self, model: UMT5EncoderModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer

    @torch.no_grad()
    def __call__(self, prompt: str) -> Tensor:
        """One row per token of `prompt` [L, text_dim], L at most 512, without padding."""
        ids = self.tokenizer(clean(prompt), truncation=True, max_length=MAX_TOKENS, return_tensors="pt").input_ids
        return self.model(input_ids=ids.to(self.model.device)).last_hidden_state[0]


def clean(prompt: str) -> str:
    """`prompt` as the text encoder saw its training texts: mended Unicode, no HTML entities (some were escaped twice), single spaces."""
    mended = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", mended).strip()
