"""A process and its machine: launcher, devices, threads, memory, deadline."""
