"""Ingest: foreign media become upright, constant-rate, decodable files of our own."""
