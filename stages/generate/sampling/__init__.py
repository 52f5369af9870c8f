"""Sigmas, samplers, guidance and step caches: free functions and small values."""
