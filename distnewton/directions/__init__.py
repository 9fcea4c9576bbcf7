"""One file a direction, one protocol."""
