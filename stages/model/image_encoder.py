"""The CLIP vision encoder: frames to image tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPVisionModel

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training images in [0, 1]: openai/CLIP, clip/clip.py
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ImageEncoder:
    """Encodes a frame to image tokens."""

    def __init__(self, model: CLIPVisionModel) -> None:
        self.model = model.eval()

    @torch.no_grad()
    def __call__(self, frame: Tensor) -> Tensor:
        """The tokens [1, 257, clip_dim] of `frame` [1, 3, H, W] in [-1, 1]: the second-to-last hidden state."""
        pixels = preprocess(frame, self.model.config.image_size).to(self.model.device, self.model.dtype)
        return self.model(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]


def preprocess(frame: Tensor, size: int) -> Tensor:
    """`frame` [1, 3, H, W] in [-1, 1] as input of the encoder [1, 3, size, size].

    Unlike CLIP's usual preprocessing this resizes the whole frame to a square without antialiasing: the denoiser was trained that way.
    """
    square = F.interpolate(frame.float(), size=(size, size), mode="bicubic", align_corners=False) / 2 + 0.5
    mean, std = (torch.tensor(values, device=frame.device).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (square - mean) / std
