"""Publish: the film is verified and delivered with its sidecar."""
