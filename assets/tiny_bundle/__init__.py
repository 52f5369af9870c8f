"""The toy model: see README.md."""
