"""The environment of a process: launcher, devices, threads, memory and deadline."""
