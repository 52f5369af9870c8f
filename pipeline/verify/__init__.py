"""Golden tensors against the classes that the pipeline uses: what `dub verify` does."""
