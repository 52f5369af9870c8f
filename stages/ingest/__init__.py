"""Ingest: files of users become upright, constant-rate, decodable files of the product."""
