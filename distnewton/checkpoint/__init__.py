"""Checkpoints: what a run resumes from, written by the owners of the variables, readable on any grid."""
