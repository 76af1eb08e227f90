"""Provides checkpoints: writing them while training, their format, and the one that a run resumes from."""
