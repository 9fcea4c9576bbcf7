"""Checkpoints, from which a run resumes: written by the owners of the variables, readable on any grid."""
