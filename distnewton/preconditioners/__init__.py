"""Block-diagonal approximations of the damped Gauss-Newton matrix that are easy to invert."""
