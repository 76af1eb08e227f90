"""Kernels in C for what torch's operators do slowly on a CPU. Where they cannot be had, torch's operators serve."""
