"""Data sources and formats, labels and scaling."""
