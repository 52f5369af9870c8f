"""The tiny model: see README.md."""
