"""The reference of a window: the frame of the source at its start, encoded."""

from dataclasses import dataclass

import torch
from torch import Tensor

from infinitedub.stages.engines.framing import to_range
from infinitedub.stages.model.image_encoder import ImageEncoder
from infinitedub.stages.model.latent_codec import LatentCodec


@dataclass(frozen=True, slots=True)
class Reference:
    """A frame, encoded by the video autoencoder and by CLIP."""

    latents: Tensor  # [1, 16, T, h/8, w/8], float32: the frame, then grey for the rest of a window
    clip: Tensor  # [1, 257, clip_dim]


def encode_reference(picture: Tensor, codec: LatentCodec, image_encoder: ImageEncoder, window_frames: int, device: torch.device | str) -> Reference:
    """The reference of `picture` [3, h, w], uint8."""
    frame = to_range(picture.to(device))[None]
    video = frame.new_zeros(1, 3, window_frames, *frame.shape[2:])
    video[:, :, 0] = frame
    return Reference(codec.encode(video), image_encoder(frame))
