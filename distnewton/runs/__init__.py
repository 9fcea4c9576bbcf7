"""A whole run: data, grid, network, checkpoints and what is left on disk."""
