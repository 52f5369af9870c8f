"""Wan's causal video autoencoder: frames to latents and back."""

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from infinitedub.stages.errors import ConfigError


class LatentCodec(nn.Module):
    """Encodes frames to normalised latents and decodes them. The first latent stands for one frame, each later one for four."""

    spatial_factor = 8
    temporal_factor = 4

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        spatial = 2 ** (len(vae.config.dim_mult) - 1)
        factors = spatial * (vae.config.patch_size or 1), 2 ** sum(vae.config.temperal_downsample)
        if factors != (self.spatial_factor, self.temporal_factor):
            raise ConfigError(f"got an autoencoder that downsamples by {factors[0]} in space and {factors[1]} in time; the denoiser needs 8 and 4")
        self.vae = vae
        for name in ("latents_mean", "latents_std"):
            values = torch.tensor(getattr(vae.config, name)).view(1, -1, 1, 1, 1)
            self.register_buffer(name, values.to(vae.device, vae.dtype), persistent=False)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Normalised latents [1, 16, T, H/8, W/8] of `video` [1, 3, F, H, W] in [-1, 1]: the posterior's mode.

        Raises ValueError unless F = 4n+1 and H and W are multiples of 8: the autoencoder would drop the rest without an error.
        """
        frames, height, width = video.shape[2:]
        if frames % self.temporal_factor != 1 or height % self.spatial_factor or width % self.spatial_factor:
            raise ValueError(f"got {frames} frames of {width}x{height}; wanted 4n+1 frames and sides that are multiples of 8")
        mode = self.vae.encode(video.to(self.latents_mean)).latent_dist.mode()
        return (mode - self.latents_mean) / self.latents_std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Frames [1, 3, 4*T-3, H, W] in [-1, 1] of normalised `latents` [1, 16, T, H/8, W/8]."""
        raw = latents.to(self.latents_mean) * self.latents_std + self.latents_mean
        return self.vae.decode(raw).sample.clamp(-1, 1)
