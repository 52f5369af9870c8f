"""Engines: the video models. Each has a room here, which condition and generate open by its name."""
