"""Data: sources and formats, labels, scaling."""
