"""Places where bytes lie: folders of this machine, and whatever fsspec reaches."""
