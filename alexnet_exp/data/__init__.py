"""Provides images and labels: sources, splits, order and augmentation. Imports neither Lightning nor Hydra."""
