"""Condition: everything the denoiser is told, prepared ahead of it."""
