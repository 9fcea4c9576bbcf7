"""Scaling studies: runs on several numbers of ranks, made, collected, and held against the model."""
