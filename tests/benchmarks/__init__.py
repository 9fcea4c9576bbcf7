"""Measurements to run by hand; nothing here is imported by the rest."""
