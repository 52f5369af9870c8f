"""Shared by all stages: reading and writing the product's own video and audio files."""
