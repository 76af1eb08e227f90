"""Registers the launchers and sweepers of `alexnet_exp.sweep` with Hydra, which searches for `hydra_plugins`."""
