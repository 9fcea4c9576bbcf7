"""Directions and preconditioners: one file for each, one protocol."""
