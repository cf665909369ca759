"""Schemas of every table, their validation, and manifests built from images x prompts."""
