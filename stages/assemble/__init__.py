"""Assemble: chunks and voices become one film."""
