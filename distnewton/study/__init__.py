"""Scaling studies: do runs on several numbers of ranks, collect them, and compare them with the model."""
