"""Shared ground of listen, condition and generate: the networks, single-device, and how their weights are read."""
