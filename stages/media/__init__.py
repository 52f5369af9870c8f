"""Shared ground of the rooms: probing, reading and writing pictures, footage and sound."""
