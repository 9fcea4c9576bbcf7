"""Stores: data on disk in column order."""

MANIFEST_FILE = "store.json"
"""File that tells a store from other folders."""
