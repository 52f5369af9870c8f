"""Storage: results, run logs and films on folders and object stores, and what a catalogue may name."""
