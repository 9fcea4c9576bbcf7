"""Clusters: files of data, jobs written from them, the supervisor of a launcher, the doctor of a set-up."""
