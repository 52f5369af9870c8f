"""Listen: voices become speech features, one row per film frame."""
