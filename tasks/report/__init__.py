"""The report of a run: its results as numbers, plots, pictures and a page."""
