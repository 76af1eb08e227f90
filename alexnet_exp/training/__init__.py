"""Provides training: from a validated configuration to a finished run folder."""
