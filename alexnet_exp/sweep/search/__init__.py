"""Provides the search of hyperparameters with Optuna: space, study, loop and the sweeper."""
