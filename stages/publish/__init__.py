"""Publish: the film is verified and put where it belongs, with its sidecar."""
