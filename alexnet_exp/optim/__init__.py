"""Optimizers and learning-rate schedules: their settings (torch-free) and what is built from them."""
