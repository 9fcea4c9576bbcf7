"""Conjugate gradients, line search and damping, independent of networks."""
