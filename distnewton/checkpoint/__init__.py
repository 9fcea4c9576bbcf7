"""Checkpoints: what a run goes on from, written by the owners of the variables, readable on any grid."""
