"""Jacobian factors and Gauss-Newton operators."""
