"""Provides optimizers and learning-rate schedules: their settings (without torch) and what is built from them."""
