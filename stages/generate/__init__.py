"""Generate: makes a segment's frames window by window."""
