"""Distributed Newton methods for neural networks on MPI."""
