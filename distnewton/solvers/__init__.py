"""Conjugate gradients, line search and damping; they know no network."""
