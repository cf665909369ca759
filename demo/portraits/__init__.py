"""Procedural portraits: typed attributes, a batched renderer, scenes and captions."""
