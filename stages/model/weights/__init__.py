"""Checkpoint layouts, key maps and strict loading of weights."""
