"""Provides sweeps: many runs planned and checked together, each run in a process of its own, and resumable."""
