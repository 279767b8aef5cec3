"""Scoring what a run draws: readers of pictures, metrics, and the end-of-run scores."""
