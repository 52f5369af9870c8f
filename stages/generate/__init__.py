"""Generate: the streaming dubber. A segment's windows become frames, one window after the other."""
