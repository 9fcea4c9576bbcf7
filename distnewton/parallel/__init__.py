"""Ranks: who owns what, communication, early termination, the launch."""
