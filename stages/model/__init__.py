"""The networks that listen, condition and generate share, as single-device code, and how their weights are read."""
