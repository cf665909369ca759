"""Data on any fsspec URL: folders, their faults, and commits that count."""
