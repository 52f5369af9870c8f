"""Segment: shots are found, and each is laid out in windows."""
