"""Assemble: the chunks and voices of a job become one film."""
