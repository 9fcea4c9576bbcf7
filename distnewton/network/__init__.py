"""Fully connected layers on a process grid."""
