"""Segment: finds the shots of a film and plans the windows of each."""
