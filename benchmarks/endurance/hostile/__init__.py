"""Hostile input by family, and what the product's own doors make of it."""
