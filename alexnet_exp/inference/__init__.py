"""Provides trained networks: loading one from a checkpoint, its nearest training images, exporting it."""
