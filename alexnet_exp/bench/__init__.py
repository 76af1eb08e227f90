"""Measures how fast an experiment trains on this machine, and where the time goes."""
