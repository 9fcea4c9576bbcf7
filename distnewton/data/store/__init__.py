"""Stores: data on disk in column order."""
