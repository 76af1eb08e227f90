"""Provides training: from a validated configuration to a finished run folder."""

from alexnet_exp.processes.light_imports import install

install()
