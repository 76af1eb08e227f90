"""Measures how fast an experiment trains on this machine, and where the time goes."""

from alexnet_exp.processes.light_imports import install

install()
