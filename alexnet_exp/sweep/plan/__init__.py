"""Provides the planning of a sweep: composing and checking its jobs, their names and folders."""
