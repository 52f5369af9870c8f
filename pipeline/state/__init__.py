"""Durable state of runs: committed results, content keys, the run log, and what is read from or removed from them."""
