"""Counts the compositions and validations of a process."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

from hydra._internal.config_loader_impl import ConfigLoaderImpl

import alexnet_exp.config.composition
from alexnet_exp.config.validate import validate


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Within the block, counts how often Hydra composes and how often `validate` is called, under either name."""
    counts: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return function(*arguments, **options)

        return call

    load = ConfigLoaderImpl.load_configuration
    users = [module for module in list(sys.modules.values()) if getattr(module, "validate", None) is validate]
    assert alexnet_exp.config.composition in users
    patches = [patch.object(module, "validate", counted("validations", validate)) for module in users]
    patches.append(patch.object(ConfigLoaderImpl, "load_configuration", counted("compositions", load)))
    for each in patches:
        each.start()
    try:
        yield counts
    finally:
        for each in patches:
            each.stop()
