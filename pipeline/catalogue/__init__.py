"""Catalogue input: rows of JSONL, CSV or Parquet become jobs, or errors that say what is wrong with each."""
