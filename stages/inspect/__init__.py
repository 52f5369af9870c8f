"""Inspect: metrics of a finished film. They are not part of the flow yet."""
