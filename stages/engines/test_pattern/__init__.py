"""Test pattern: moving bars in place of a model. Needs neither speech nor weights, so it tries the pipeline alone."""
