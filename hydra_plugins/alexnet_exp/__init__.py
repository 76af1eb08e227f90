"""What Hydra finds by looking for a package of the name `hydra_plugins`: thin, the code is in `alexnet_exp.sweep`."""
