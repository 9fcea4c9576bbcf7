"""Trained networks: files, predictions, metrics."""
