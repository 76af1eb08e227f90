"""Provides the commands of `python -m alexnet_exp`: one module a command, each with `run(arguments) -> exit code`."""
