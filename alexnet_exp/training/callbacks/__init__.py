"""Provides the callbacks of a run: recording, diagnostics, moving averages, progress, pruning."""
