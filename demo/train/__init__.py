"""Training of the demo models on rendered portraits: `python -m demo.train`."""
