"""Provides kernels in C for operators that are slow in torch on a CPU, with torch's operators as the fallback."""
