"""Stores: data laid out on disk by column."""
