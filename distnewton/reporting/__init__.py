"""Output about runs, while they train and afterwards."""
