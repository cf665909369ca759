"""Photographs in: listings, decoding, faces, and aligned crops."""
