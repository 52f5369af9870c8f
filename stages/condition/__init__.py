"""Condition: prepares a segment's conditioning ahead of the denoiser's GPUs."""
