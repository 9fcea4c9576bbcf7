"""Ranks: the partition, communication, early termination and sums over replicas."""
