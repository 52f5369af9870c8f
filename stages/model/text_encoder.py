"""The umT5 text encoder with its tokenizer."""

import html
import re

import ftfy
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

MAX_TOKENS = 512  # what the denoiser was trained with; longer prompts are truncated


class TextEncoder:
    """Encodes prompts to hidden states."""

    def __init__(self, model: UMT5EncoderModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer

    @torch.no_grad()
    def __call__(self, prompt: str) -> Tensor:
        """One row per token of `prompt` [L, text_dim], L at most 512, without padding."""
        ids = self.tokenizer(clean_prompt(prompt), truncation=True, max_length=MAX_TOKENS, return_tensors="pt").input_ids
        return self.model(input_ids=ids.to(self.model.device)).last_hidden_state[0]


def clean_prompt(prompt: str) -> str:
    """`prompt` cleaned like the training texts of the encoder: repaired Unicode, HTML entities unescaped (some were escaped twice), single spaces."""
    repaired = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", repaired).strip()
