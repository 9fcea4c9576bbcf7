"""Clusters: cluster files, jobs written from them, the supervisor of a launcher, and the doctor of a set-up."""
